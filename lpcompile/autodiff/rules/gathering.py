"""Operators that read or write at indices: Gather and Scatter in all their forms, TopK, Compress.

Sums over equal indices are ScatterElements, which ONNX Runtime adds up in order; its ScatterND adds from
several threads at once.
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of, static_shape
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.autodiff.positions import ADDING_SCATTER_SINCE, put_back
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.slicing import padded
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@elementwise("Gather")
def gather(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """What was read from a row is added up in that row."""
    indices, rank = operands(node, 2)[1], rank_of(x)
    if rank is None:
        return put_back(b, node, x, g, unique=False)
    axis = int(node.attrs.get("axis", 0)) % rank
    run = _run(indices)
    if run is not None:
        return _rows_in_sequence(b, g, x, axis, run, indices.dims == ())
    dims = [b.dim(x, a) for a in range(rank)]
    shape = static_shape(indices)
    flat = b.op("Reshape", indices, b.constant([-1]))
    count = b.op("Reshape", b.op("Size", indices), b.constant([-1])) if shape is None else b.product(shape)
    if b.graph.opset < ADDING_SCATTER_SINCE:
        rows = b.reshape(g, b.vector([b.product(dims[:axis]), count, b.product(dims[axis + 1 :])]))
        return b.reshape(b.matmul(_one_hot(b, flat, b.dim(x, axis), 0, g), rows), b.shape(x))
    if rank_of(indices) != 1:
        g = b.reshape(g, b.vector([*dims[:axis], count, *dims[axis + 1 :]]))
    rows = b.op("Reshape", flat, b.constant([-1, *[1] * (rank - 1 - axis)]))
    every = b.op("Expand", rows, b.op("Shape", g))
    return b.apply("ScatterElements", b.zeros_like(x), every, g, axis=axis, reduction="add")


def _run(indices: Value) -> tuple[int, int] | None:
    """(first, count) of constant indices that follow each other."""
    if not indices.is_constant or len(indices.dims) > 1:
        return None
    values = indices.values.reshape(-1)
    if not values.size or (np.diff(values) != 1).any() or values[0] < 0 <= values[-1]:
        return None
    return int(values[0]), int(values.size)


def _rows_in_sequence(
    b: GradientBuilder, g: Value, x: Value, axis: int, run: tuple[int, int], single: bool
) -> Value:
    first, count = run
    rank = rank_of(x)
    assert rank is not None
    if single:
        g = b.apply("Unsqueeze", g, b.constant([axis]))
    n = b.dim(x, axis)
    if isinstance(n, int):
        first = first % n
        return padded(b, g, rank, {axis: (first, n - first - count)})
    rest = b.op("Sub", n, b.constant([first + count if first >= 0 else -first]))
    return padded(b, g, rank, {axis: (first, rest) if first >= 0 else (rest, -first - count)})


def _one_hot(b: GradientBuilder, indices: Value, depth: int | Value, axis: int, like: Value) -> Value:
    values = b.constant(np.array([0, 1], like.dtype or np.float32))
    number = b.op("Squeeze", depth) if isinstance(depth, Value) else b.constant(depth)
    return b.with_type(b.op("OneHot", indices, number, values, axis=axis), like)


@elementwise("GatherElements")
def gather_elements(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """What was read from an element is added up there."""
    indices, axis = operands(node, 2)[1], int(node.attrs.get("axis", 0))
    if b.graph.opset >= ADDING_SCATTER_SINCE:
        return b.apply("ScatterElements", b.zeros_like(x), indices, g, axis=axis, reduction="add")
    rank = rank_of(x)
    if rank is None:
        return put_back(b, node, x, g, unique=False)
    axis %= rank
    chosen = _one_hot(b, indices, b.dim(x, axis), axis, g)
    summed = b.sum(b.mul(chosen, b.apply("Unsqueeze", g, b.constant([axis]))), [axis + 1])
    after = b.op("Sub", b.shape(x), b.op("Shape", summed))  # indices may cover a part of the other axes
    return b.apply("Pad", summed, b.op("Concat", b.constant([0] * rank), after, axis=0))


@elementwise("GatherND")
def gather_nd(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """What was read from an element is added up there."""
    return put_back(b, node, x, g, unique=False)


@elementwise("Compress")
def compress(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """0 for what was left out."""
    return put_back(b, node, x, g, unique=True)


@rule("TopK")
def top_k(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """0 for what is not among the first k."""
    x, g, indices = node.inputs[0], grads[0], node.outputs[1] if len(node.outputs) > 1 else None
    assert x is not None
    if g is None:
        return [None, None]
    if indices is None:
        indices = b.ops("TopK", *node.inputs, outputs=2, **dict(node.attrs))[1]
    axis = int(node.attrs.get("axis", -1))
    return [b.with_shape(b.op("ScatterElements", b.zeros_like(x), indices, g, axis=axis), x), None]


@rule("ScatterElements", "ScatterND")
def scatter(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Written elements get their gradient; those that were overwritten get none.

    Raises:
        GradientError: it multiplies, or takes the larger or smaller.
    """
    (g,) = grads
    x, indices, updates = operands(node, 3)
    assert g is not None
    reduction = node.attrs.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise GradientError(
            f"operator {node.op} with reduction '{reduction}' has no gradient", where=node.name
        )
    attrs = {"axis": int(node.attrs.get("axis", 0))} if node.op == "ScatterElements" else {}
    by_data: Gradient = None
    if wanted[0]:
        by_data = g
        if reduction == "none":
            by_data = b.with_shape(b.op(node.op, g, indices, b.zeros_like(updates), **attrs), x)
    read = "GatherElements" if node.op == "ScatterElements" else "GatherND"
    by_updates = b.with_shape(b.op(read, g, indices, **attrs), updates) if wanted[2] else None
    return [by_data, None, by_updates]
