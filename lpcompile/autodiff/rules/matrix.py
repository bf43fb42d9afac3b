"""Gemm and MatMul."""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.windows import typed
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape
from lpcompile.ir.value import Value


@rule("Gemm")
def gemm(b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]) -> list[Gradient]:
    """Y = alpha A' B' + beta C: dA' = alpha G B'^T, dB' = alpha A'^T G, dC = beta G."""
    (g,) = grads
    assert g is not None
    a, w = operands(node, 2)
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    turn_a, turn_b = int(node.attrs.get("transA", 0)), int(node.attrs.get("transB", 0))
    found: list[Gradient] = [None] * len(wanted)
    if len(wanted) > 2 and wanted[2]:
        c = node.inputs[2]
        assert c is not None
        out = node.outputs[0]
        shaped = b.scale(g, beta) if beta != 1 or out is None else g
        found[2] = b.sum_to(b.with_shape(shaped, out) if out is not None and shaped is not g else shaped, c)
    if wanted[1]:
        parts = (g, a, 1, turn_a) if turn_b else (a, g, 1 - turn_a, 0)
        found[1] = dw = _gemm(b, *parts, alpha=alpha, like=w)
        g = after(b, g, dw, like=node.outputs[0]) if wanted[0] else g
    if wanted[0]:
        parts = (w, g, turn_b, 1) if turn_a else (g, w, 0, 1 - turn_b)
        found[0] = _gemm(b, *parts, alpha=alpha, like=a)
    return found


def _gemm(
    b: GradientBuilder, x: Value, y: Value, turn_x: int, turn_y: int, *, alpha: float, like: Value
) -> Value:
    made = b.op("Gemm", x, y, alpha=alpha, transA=turn_x, transB=turn_y)
    return b.with_shape(typed(b, made, like), like)


@rule("MatMul")
def matmul(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Gives dA = G B^T, dB = A^T G, summed over batch axes that were repeated; vectors are rows or columns."""
    (g,) = grads
    assert g is not None
    x, y = operands(node, 2)
    rank_x, rank_y = rank_of(x), rank_of(y)
    if rank_x is None or rank_y is None:
        raise GradientError(
            "the rank of an operand is not known", where=node.name, hint="run shape inference on the model"
        )
    a, w, delta = x, y, g
    if rank_y == 1:
        w = typed(b, b.op("Unsqueeze", y, b.constant([1])), y)
        delta = typed(b, b.op("Unsqueeze", delta, b.constant([-1])), g)
    if rank_x == 1:
        a = typed(b, b.op("Unsqueeze", x, b.constant([0])), x)
        delta = typed(b, b.op("Unsqueeze", delta, b.constant([-2])), g)
    batch = _batch(node, rank_x, rank_y)
    ranks = max(rank_x, 2), max(rank_y, 2)
    found: list[Gradient] = [None] * len(wanted)
    if wanted[1] and rank_y == 2:  # all rows of the batch at once
        left, right = (a, delta) if ranks[0] == 2 else (rows(b, a, y, 0), rows(b, delta, y, 1))
        found[1] = b.with_shape(typed(b, b.op("Gemm", left, right, transA=1), y), y)
    elif wanted[1]:
        found[1] = _back(b, b.matmul(swapped(b, a, ranks[0]), delta), y, batch)
    if wanted[0]:
        delta = delta if found[1] is None else after(b, delta, found[1])
        found[0] = _back(b, b.matmul(delta, swapped(b, w, ranks[1])), x, batch)
    return found


def _batch(node: Node, rank_x: int, rank_y: int) -> Shape | None:
    out = node.outputs[0]
    if out is None or out.shape is None:
        return None
    return out.shape[: len(out.shape) - (rank_x > 1) - (rank_y > 1)]


def swapped(b: GradientBuilder, a: Value, rank: int) -> Value:
    """The last two axes in each other's place; of a constant, a constant."""
    if a.is_constant:
        return b.constant(np.ascontiguousarray(a.values.swapaxes(-1, -2)))
    return b.transpose(a, [*range(rank - 2), rank - 1, rank - 2])


def rows(b: GradientBuilder, a: Value, weight: Value, axis: int) -> Value:
    """(..., K) as one matrix (rows, K), where K is the length of an axis of the weights."""
    known = (weight.dims if weight.is_constant else weight.shape or (None,) * 2)[axis]
    if isinstance(known, int):
        return b.reshape(a, [-1, known])
    last = b.op(
        "Slice", b.op("Shape", a), b.constant([-1]), b.constant([np.iinfo(np.int64).max]), b.constant([0])
    )
    return b.reshape(a, b.op("Concat", b.constant([-1]), last, axis=0))


def _back(b: GradientBuilder, made: Value, operand: Value, batch: Shape | None) -> Value:
    """A gradient (*batch, M, K) brought to the shape of the operand."""
    shape = operand.dims if operand.is_constant else operand.shape
    assert shape is not None
    if len(shape) == 1:  # a row or a column
        flat = b.op("Reshape", made, b.op("Concat", b.constant([-1]), b.shape(operand), axis=0))
        return b.with_shape(b.sum(typed(b, flat, operand), [0]), operand)
    b.graph.set_type(made, operand.dtype, None if batch is None else (*batch, *shape[-2:]))
    return b.sum_to(made, operand)
