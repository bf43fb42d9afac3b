"""Operators that cut a part out of a tensor or put a margin around it: Slice, Pad."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.autodiff.axis_map import along_axis
from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.autodiff.positions import put_back
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_TO_THE_END = np.iinfo(np.int64).max
_TO_THE_START = np.iinfo(np.int64).min
Amount = int | Value


@elementwise("Slice")
def slice_(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The gradient with zeros around it, and between its elements where the step is not 1."""
    rank = rank_of(x)
    starts, axes, steps = (_numbers(node, i, name) for i, name in ((1, "starts"), (3, "axes"), (4, "steps")))
    given = len(node.inputs) > 4 and node.inputs[4] is not None
    if rank is None or starts is None or (steps is None and given):
        return put_back(b, node, x, g, unique=True)
    if axes is None:
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            return put_back(b, node, x, g, unique=True)
        axes = list(range(len(starts)))
    steps = steps or [1] * len(starts)
    dims = [b.dim(x, axis) for axis in range(rank)]
    lengths = [b.dim(y, axis) for axis in range(rank)]
    margins: dict[int, tuple[Amount, Amount]] = {}
    for axis, start, step in zip((a % rank for a in axes), starts, steps, strict=True):
        n, length = dims[axis], lengths[axis]
        if isinstance(n, int) and isinstance(length, int):
            if length == 0:
                return b.zeros_like(x)
            first = min(max(start + n if start < 0 else start, 0), n if step > 0 else n - 1)
            if step != 1:
                g, first, length = _spread(b, g, lengths, axis, first, step, n)
                lengths[axis] = length
            margins[axis] = (first, n - first - length)
        elif step == 1:
            margins[axis] = _margins_at_run_time(b, start, n, length)
        else:
            return put_back(b, node, x, g, unique=True)
    return padded(b, g, rank, margins)


def _numbers(node: Node, i: int, name: str) -> list[int] | None:
    """An argument that is an attribute or a constant input; None where it is neither."""
    if name in node.attrs:
        return [int(v) for v in node.attrs[name]]
    value = node.inputs[i] if i < len(node.inputs) else None
    return [int(v) for v in value.values] if value is not None and value.is_constant else None


def _spread(
    b: GradientBuilder, g: Value, lengths: Sequence[Amount], axis: int, first: int, step: int, n: int
) -> tuple[Value, int, int]:
    """The gradient of a strided slice in ascending order, with zeros between: (it, its offset, its length)."""
    length = lengths[axis]
    assert isinstance(length, int)
    if step < 0:
        back = [b.constant([v]) for v in (-1, _TO_THE_START, axis, -1)]
        g, first, step = b.apply("Slice", g, *back), first + (length - 1) * step, -step
    if step == 1:
        return g, first, length
    rank = len(lengths)
    apart = b.apply("Unsqueeze", g, b.constant([axis + 1]))
    apart = padded(b, apart, rank + 1, {axis + 1: (0, step - 1)})
    joined = b.reshape(apart, b.vector([*lengths[:axis], length * step, *lengths[axis + 1 :]]))
    room = n - first
    if length * step > room:
        joined = b.apply("Slice", joined, b.constant([0]), b.constant([room]), b.constant([axis]))
    return joined, first, min(length * step, room)


def _margins_at_run_time(b: GradientBuilder, start: int, n: Amount, length: Amount) -> tuple[Amount, Amount]:
    size = b.vector([n])
    first: Amount = start
    if start < 0:
        first = b.op("Max", b.op("Add", size, b.constant([start])), b.constant([0]))
    elif start > 0:
        first = b.op("Min", size, b.constant([start]))
    return first, b.op("Sub", b.op("Sub", size, b.vector([first])), b.vector([length]))


def padded(b: GradientBuilder, a: Value, rank: int, margins: Mapping[int, tuple[Amount, Amount]]) -> Value:
    """`a` with zeros around it: axis -> how many (before, after)."""
    if all(isinstance(m, int) and m == 0 for margin in margins.values() for m in margin):
        return b.apply("Identity", a)
    before = [margins.get(axis, (0, 0))[0] for axis in range(rank)]
    after = [margins.get(axis, (0, 0))[1] for axis in range(rank)]
    return b.apply("Pad", a, b.vector([*before, *after]))


@rule("Pad")
def pad(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """The gradient without its margin; what copies of elements get is added to the elements."""
    (g,) = grads
    x = node.inputs[0]
    found: list[Gradient] = [None] * len(wanted)
    assert g is not None
    assert x is not None
    if node.attrs.get("mode", "constant") != "constant":
        found[0] = b.with_shape(_pad_with_copies(b, node, x, g), x)
        return found
    inner, by_data = _unpadded(b, node, x, g)
    found[0] = b.with_shape(by_data, x)
    if len(wanted) > 2 and wanted[2] and node.inputs[2] is not None:
        outside = b.sub(b.apply("ReduceSum", g, keepdims=0), b.apply("ReduceSum", inner, keepdims=0))
        found[2] = b.reshape_like(outside, node.inputs[2])
    return found


def _pads(node: Node, rank: int | None) -> dict[int, tuple[int, int]] | None:
    """Axis -> (before, after); None where they are known at run time only."""
    pads = _numbers(node, 1, "pads")
    given = len(node.inputs) > 3 and node.inputs[3] is not None
    axes = _numbers(node, 3, "axes") if given else list(range(len(pads or []) // 2))
    if pads is None or axes is None or (rank is None and min(axes, default=0) < 0):
        return None
    k = len(axes)
    return {a % rank if rank else a: (pads[i], pads[k + i]) for i, a in enumerate(axes)}


def _unpadded(b: GradientBuilder, node: Node, x: Value, g: Value) -> tuple[Value, Value]:
    """(the part of g that stems from x, the gradient of x: with zeros where a negative margin cut x)."""
    rank = rank_of(x)
    pads = _pads(node, rank)
    if pads is None or (rank is None and any(min(p) < 0 for p in pads.values())):
        return _unpadded_at_run_time(b, node, g)
    cut = {axis: p for axis, p in pads.items() if max(p) > 0}
    inner = g
    if cut:
        starts = [max(before, 0) for before, _ in cut.values()]
        ends = [-after if after > 0 else _TO_THE_END for _, after in cut.values()]
        inner = b.apply("Slice", g, b.constant(starts), b.constant(ends), b.constant(list(cut)))
    lost = {axis: (max(-p[0], 0), max(-p[1], 0)) for axis, p in pads.items() if min(p) < 0}
    return inner, padded(b, inner, rank, lost) if lost and rank is not None else inner


def _unpadded_at_run_time(b: GradientBuilder, node: Node, g: Value) -> tuple[Value, Value]:
    pads, axes = node.inputs[1], node.inputs[3] if len(node.inputs) > 3 else None
    zero = b.constant([0])
    halves = b.op("Reshape", b.op("Max", pads, zero), b.constant([2, -1]))
    starts, margin = (b.op("Gather", halves, b.constant(i), axis=0) for i in (0, 1))
    sizes = b.op("Shape", g) if axes is None else b.op("Gather", b.op("Shape", g), axes, axis=0)
    inner = b.apply("Slice", g, starts, b.op("Sub", sizes, margin), axes)
    lost = b.op("Max", b.op("Neg", pads), zero)
    return inner, b.apply("Pad", inner, lost, *([None, axes] if axes is not None else []))


def _pad_with_copies(b: GradientBuilder, node: Node, x: Value, g: Value) -> Value:
    rank = rank_of(x)
    pads = _pads(node, rank)
    dims = [] if rank is None else [b.dim(x, axis) for axis in range(rank)]
    known = pads is not None and all(
        isinstance(dims[a], int) and min(p) >= 0 for a, p in pads.items() if any(p)
    )
    if rank is None or pads is None or not known:
        return put_back(b, node, x, g, unique=False)
    for axis, margin in pads.items():
        n = dims[axis]
        if any(margin) and isinstance(n, int):
            source = np.pad(np.arange(n), margin, mode=node.attrs["mode"])
            current = [*dims[:axis], *(b.dim(g, a) for a in range(axis, rank))]
            g = _without_copies(b, g, source, margin, axis, current)
    return g


def _without_copies(
    b: GradientBuilder,
    g: Value,
    source: NDArray[np.intp],
    margin: tuple[int, int],
    axis: int,
    dims: Sequence[int | Value],
) -> Value:
    """The gradient before padding one axis: each margin is added to the elements that it copied.

    A matrix of copies is as large as a margin and the elements that it copies, not as the whole axis: a signal of
    40000 samples with 128 reflected ones at both ends would take a matrix of 6 GB.
    """
    rank, (before, after) = len(dims), margin
    n = len(source) - before - after
    made = b.apply("Slice", g, b.constant([before]), b.constant([before + n]), b.constant([axis]))
    for start, stop in ((0, before), (before + n, len(source))):
        if start == stop:
            continue
        low, high = int(source[start:stop].min()), int(source[start:stop].max()) + 1
        copies = np.eye(high - low, dtype=g.dtype or np.float32)[source[start:stop] - low]
        border = b.apply("Slice", g, b.constant([start]), b.constant([stop]), b.constant([axis]))
        size = [*dims[:axis], stop - start, *dims[axis + 1 :]]
        border = along_axis(b, border, b.constant(copies), axis, size, high - low)
        made = b.add(made, padded(b, border, rank, {axis: (low, n - high)}))
    return made
