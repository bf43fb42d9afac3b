"""Gradients with respect to the weights of layers, as rows (C_out, K), summed over a call or one a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.reverse import Visit, add_gradients
from lpcompile.autodiff.rules.convolution import channel_sum, convolution_of, delta_like
from lpcompile.autodiff.rules.convolution_input import Kernel
from lpcompile.autodiff.rules.convolution_weight import weight_gradient
from lpcompile.autodiff.rules.transposed_convolution import transposed_windows
from lpcompile.autodiff.rules.windows import Windows, typed
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@dataclass(frozen=True, slots=True)
class LayerGradient:
    """Gradient of one layer, with the samples as a first axis where they are kept.

    Attributes:
        weight: (C_out, K) or (N, C_out, K), rows as `quant.rows.to_rows` orders them.
        bias: the gradient at the layer's output, summed over positions: (C_out,) or (N, C_out). Inputs that are
            centred by their mean m give weight - bias (x) m.
    """

    weight: Value
    bias: Value


def add_weight_gradients(
    graph: LpGraph,
    seeds: Mapping[str, Value],
    layers: Sequence[Node],
    *,
    per_sample: bool,
    rows: Mapping[str, Sequence[int]] | None = None,
    batch: int | str | None = None,
    shown: bool = False,
    prefix: str = "gradient",
) -> dict[str, LayerGradient]:
    """Add the nodes that compute the gradients of layers with respect to their weights.

    Args:
        graph: with shapes inferred; it is added to.
        seeds: tensor name -> gradient of the loss with respect to that tensor.
        layers: some of `graph.layers()`.
        per_sample: one gradient a sample, the first axis of the layer's data; else their sum over the call.
        rows: layer name -> the rows that are wanted, all by default; a smaller product. For ConvTranspose,
            whose rows are input channels, the bias stays whole.
        batch: size or name of the batch axis, which the first axis of every layer must be if `per_sample`. A
            matrix (rank 2) must be known to have it there; otherwise None, or an unknown size, is taken on trust.
        shown: the caller knows from running it that every first axis counts samples; nothing is checked then.
        prefix: of the names of what is added.

    Returns:
        Layer name -> gradient; a layer that nothing flows back to is left out.

    Raises:
        GradientError: an operator on the way has no rule; a layer's first axis is not, or cannot be shown to be,
            the batch; a layer multiplies with no matrix.
    """
    if per_sample and not shown:
        for node in layers:
            _check_batch(node, batch)
    found: dict[str, LayerGradient] = {}

    def visit(node: Node) -> Visit:
        def add(b: GradientBuilder, delta: Value) -> Value:
            chosen = None if rows is None or node.name not in rows else [int(r) for r in rows[node.name]]
            make = _convolution if node.op in ("Conv", "ConvTranspose") else _matrix
            found[node.name] = make(b, node, delta, chosen, per_sample)
            return after(b, delta, found[node.name].weight)

        return add

    visits = {delta_like(node).name: visit(node) for node in layers}
    add_gradients(graph, seeds, list(visits), prefix=prefix, visit=visits)
    return found


def _check_batch(node: Node, batch: int | str | None) -> None:
    x = node.inputs[0]
    shape = None if x is None else x.shape
    first = None if not shape else shape[0]
    matrix = node.op in ("Gemm", "MatMul") and (shape is None or len(shape) < 3)
    turned = node.op == "Gemm" and node.attrs.get("transA", 0)
    known = first is not None and batch is not None
    if turned or (known and first != batch) or (matrix and not known):
        raise GradientError(
            f"the first axis of its data ({first}) cannot be shown to be the batch ({batch})",
            where=node.name,
            hint="infer shapes with a fixed batch size, or leave the layer out",
        )


def _convolution(
    b: GradientBuilder, node: Node, delta: Value, rows: Sequence[int] | None, per_sample: bool
) -> LayerGradient:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    if node.op == "ConvTranspose":
        group = int(node.attrs.get("group", 1))
        w = transposed_windows(node, weight.dims[2:], x, delta_like(node))
        bias = channel_sum(b, delta, w.rank, per_sample=per_sample)
        made = _rows(b, x, delta, Kernel(weight, weight.dims, group), w, rows, per_sample)
        return LayerGradient(made, bias)
    kernel, w = convolution_of(node, weight, x, delta_like(node))
    made = _rows(b, delta, x, kernel, w, rows, per_sample)
    if rows is not None:
        delta = _pick(b, delta, rows, 1)
    return LayerGradient(made, channel_sum(b, delta, w.rank, per_sample=per_sample))


def _rows(
    b: GradientBuilder,
    delta: Value,
    data: Value,
    kernel: Kernel,
    w: Windows,
    rows: Sequence[int] | None,
    per_sample: bool,
) -> Value:
    dims, group = kernel.dims, kernel.group
    later = None
    if rows is not None and group == 1:
        delta, dims = _pick(b, delta, rows, 1), (len(rows), *dims[1:])
    elif rows is not None and dims[1] == 1:  # depthwise: each row reads one channel of the data
        multiplier = dims[0] // group
        data = _pick(b, data, [r // multiplier for r in rows], 1)
        delta, dims, group = _pick(b, delta, rows, 1), (len(rows), *dims[1:]), len(rows)
    else:
        later = rows
    made = weight_gradient(b, delta, data, dims, group, w, per_sample=per_sample)
    made = b.reshape(made, [0, dims[0], -1] if per_sample else [dims[0], -1])
    return made if later is None else _pick(b, made, later, int(per_sample))


def _matrix(
    b: GradientBuilder, node: Node, delta: Value, rows: Sequence[int] | None, per_sample: bool
) -> LayerGradient:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    rank = rank_of(x)
    if len(weight.dims) != 2 or rank is None:
        raise GradientError(
            "its weights are no matrix, or the rank of its data is not known",
            where=node.name,
            hint="leave the layer out",
        )
    width, depth = weight.dims[::-1] if not node.attrs.get("transB", 0) else weight.dims
    if node.attrs.get("transA", 0):
        x = b.transpose(x, [1, 0])
    delta = b.scale(delta, float(node.attrs.get("alpha", 1.0)))
    if rows is not None:
        delta, width = _pick(b, delta, rows, -1), len(rows)
    if not per_sample:
        delta, x = b.reshape(delta, [-1, width]), b.reshape(x, [-1, depth])
        return LayerGradient(typed(b, b.op("Gemm", delta, x, transA=1), x), b.sum(delta, [0]))
    if rank == 2:
        column, row = b.reshape(delta, [-1, width, 1]), b.reshape(x, [-1, 1, depth])
        return LayerGradient(b.mul(column, row), delta)
    delta, x = b.reshape(delta, [0, -1, width]), b.reshape(x, [0, -1, depth])
    return LayerGradient(b.matmul(b.transpose(delta, [0, 2, 1]), x), b.sum(delta, [1]))


def _pick(b: GradientBuilder, x: Value, rows: Sequence[int], axis: int) -> Value:
    return typed(b, b.op("Gather", x, b.constant(np.asarray(rows, np.int64)), axis=axis), x)
