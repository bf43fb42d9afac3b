"""How many numbers a tensor has in a call, and how wide they are; a symbolic first axis, the batch, is 1."""

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType

import numpy as np

from lpcompile.errors import ModelError
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value


class UnknownSizeError(LookupError):
    """A tensor whose size a call decides; the text says which."""


def dims_of(value: Value | None) -> list[int]:
    """Dimensions of a tensor.

    Raises:
        UnknownSizeError: a symbolic axis other than the first, or an unknown shape.
    """
    if value is None:
        return [0]
    if value.is_constant:
        return list(value.dims)
    if value.shape is None:
        raise UnknownSizeError(f"the shape of '{value.name}' is not known")
    found = []
    for i, d in enumerate(value.shape):
        if isinstance(d, int):
            found.append(d)
        elif i == 0 and d is not None:
            found.append(1)
        else:
            raise UnknownSizeError(f"axis {i} of '{value.name}' has no fixed size")
    return found


def elements(value: Value | None) -> int:
    """Numbers of a tensor; 0 of one that is left out.

    Raises:
        UnknownSizeError: see `dims_of`.
    """
    return prod(dims_of(value))


def width_of(value: Value | None) -> tuple[int, bool]:
    """Bits of a number, and whether it is a float; 32-bit floats where the type is not known."""
    dtype = None if value is None else value.dtype
    if dtype is None:
        return 32, True
    return (1 if dtype == np.dtype(bool) else 8 * dtype.itemsize), is_float(dtype)


def code_bytes(bits: int) -> int:
    """Bytes of an integer as it is held: those of 4 bits take 8."""
    return max(1, -(-bits // 8))


def nbytes(value: Value | None) -> int:
    """Bytes of a tensor as it is held.

    Raises:
        UnknownSizeError: see `dims_of`.
    """
    if value is None:
        return 0
    if value.is_constant:
        return value.nbytes
    return elements(value) * (4 if value.dtype is None else value.dtype.itemsize)


def settled(graph: LpGraph, sample: Mapping[str, Sequence[int]] = MappingProxyType({})) -> LpGraph:
    """The graph with inputs of fixed sizes, so that those behind a Reshape are known: a symbolic batch is 1.

    Where 1 is too short for a window, the first axis is no batch and has the size of the sample.

    Args:
        graph: with shapes; it is not changed.
        sample: shapes of inputs in a call, which settle symbolic axes other than the first.

    Returns:
        A copy, or the graph itself where its inputs are fixed, or not known well enough.
    """
    for first in (1, None):
        shapes = _fixed(graph, sample, first)
        if shapes is None or all(value.shape == shapes[value.name] for value in graph.inputs):
            return graph
        copy = graph.copy()
        try:
            copy.infer_shapes(shapes)
        except ModelError:
            continue
        return copy
    return graph


def _fixed(
    graph: LpGraph, sample: Mapping[str, Sequence[int]], first: int | None
) -> dict[str, tuple[int, ...]] | None:
    """Sizes of all inputs, a symbolic first axis being `first` or that of the sample; None where one is not known."""
    found: dict[str, tuple[int, ...]] = {}
    for value in graph.inputs:
        if value.shape is None:
            return None
        seen = sample.get(value.name, ())
        known = len(seen) == len(value.shape)
        dims = [
            d if isinstance(d, int) else first if i == 0 and first else seen[i] if known else None
            for i, d in enumerate(value.shape)
        ]
        if None in dims:
            return None
        found[value.name] = tuple(d for d in dims if d is not None)
    return found
