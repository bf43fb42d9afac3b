"""Absorb a per-channel scale and shift into the constants of a layer.

After:  g * (W x + b) + h = (g W) x + (g b + h), along the output channels.
Before: W (g x + h) + b = (W g) x + (W h + b), along the input channels; with padding only where h = 0,
since the zeros around x are not shifted.
Sums are formed in float64; the result takes the element type of the weight.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import F64, ChannelAffine, of_arithmetic
from lpcompile.passes.constant_inputs import input_at, is_float, output_at, rank_of

Floats = NDArray[np.floating]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def weight_obstacle(layer: Node) -> str | None:
    """Why the constants of a layer cannot be rewritten; None where they can."""
    weight, bias = input_at(layer, 1), input_at(layer, 2)
    if weight is None or not weight.is_constant or not is_float(weight) or weight.shape is None:
        return f"the weight of {layer.name} is not a float constant"
    if layer.op in ("Gemm", "MatMul") and len(weight.shape) != 2:
        return f"the weight of {layer.name} is not a matrix"
    if bias is not None and not bias.is_constant:
        return f"the bias of {layer.name} is not constant"
    if bias is not None and (bias.shape or ())[:-1].count(1) != len((bias.shape or ())[:-1]):
        return f"the bias of {layer.name} differs by row"
    return None


def output_channels(layer: Node) -> int:
    """Channels that a layer gives; its weight is a constant."""
    dims = _dims(layer)
    if layer.op == "ConvTranspose":
        return dims[1] * int(layer.attrs.get("group", 1))
    if layer.op == "Conv" or layer.attrs.get("transB", 0):
        return dims[0]
    return dims[1]


def input_channels(layer: Node) -> int:
    """Channels that a Conv or Gemm takes; its weight is a constant."""
    dims = _dims(layer)
    if layer.op == "Conv":
        return dims[1] * int(layer.attrs.get("group", 1))
    return dims[1] if layer.attrs.get("transB", 0) else dims[0]


@np.errstate(over="ignore", invalid="ignore")  # _store looks for what is not finite
def absorb_after(graph: LpGraph, layer: Node, affine: ChannelAffine) -> str | None:
    """Let a layer do the scaling and shifting of its result; MatMul scales only. Why not, or None."""
    w = _weight(layer)
    g = affine.gain  # (C_out,)
    if layer.op == "Conv":
        w = _times(w, g[:, None])
    elif layer.op == "ConvTranspose":  # (C_in, C_out/group, *kernel)
        w = _by_input(w, g, int(layer.attrs.get("group", 1)))
    else:
        w = _times(w, g[:, None] if layer.attrs.get("transB", 0) else g[None])
    return _store(graph, layer, w, _bias(layer) * g + affine.shift, same_weight=affine.keeps_scale)


def layer_and_row(source: Value) -> tuple[Node | None, Node | None]:
    """The layer that gives `source`, and after a MatMul the Add of a constant between them if any."""
    producer = source.producer
    if producer is None or producer.domain:
        return None, None
    if producer.op == "Add":
        terms = [v for v in producer.inputs if v is not None]
        constants = [v for v in terms if v.is_constant]
        products = [v.producer for v in terms if v.producer is not None and v.producer.op == "MatMul"]
        return (products[0], producer) if len(constants) == len(products) == 1 else (None, None)
    return (producer, None) if producer.op in LAYERS else (None, None)


@np.errstate(over="ignore", invalid="ignore")  # _store looks for what is not finite
def absorb_after_matmul(graph: LpGraph, layer: Node, row: Node | None, affine: ChannelAffine) -> Value | str:
    """Let a MatMul and the Add `row` after it (made where needed) scale and shift their result.

    Returns:
        The tensor that holds the result, or why it cannot be done.
    """
    product, weight = output_at(layer), layer.inputs[1]
    dtype = np.dtype(np.float32) if weight is None or weight.dtype is None else weight.dtype
    known: F64 = np.zeros(output_channels(layer))
    at = 1
    if row is not None:
        rank = rank_of(product) or 1
        affine_row = of_arithmetic(row, product, output_channels(layer), rank, rank - 1)
        if not isinstance(affine_row, ChannelAffine):
            return "what is added before it is not one number a column"
        known, at = affine_row.shift, 0 if row.inputs[1] == product else 1
    total = _cast(known * affine.gain + affine.shift, dtype)
    if not _finite(total):
        return f"the folded constants of {layer.name} are not finite"
    if not affine.keeps_scale and (reason := absorb_after(graph, layer, affine)) is not None:
        return reason
    if row is None and not total.any():
        return product
    bias = graph.constant(f"{layer.name}/bias", total)
    if row is None:
        row = graph.add_node("Add", [product, bias], name=f"{layer.name}/bias")
        graph.set_type(output_at(row), dtype, product.shape)
    else:
        row.set_input(at, bias)
    return output_at(row)


@np.errstate(over="ignore", invalid="ignore")
def absorb_before(graph: LpGraph, layer: Node, affine: ChannelAffine) -> str | None:
    """Let a Conv or Gemm do the scaling and shifting of its input; MatMul scales only. Why not, or None when done."""
    w = _weight(layer)
    g, h = affine.gain, affine.shift  # (C_in,)
    if layer.op == "MatMul":
        return _store(graph, layer, _times(w, g[:, None]), _bias(layer), same_weight=affine.keeps_scale)
    if layer.op == "Gemm":
        if layer.attrs.get("transA", 0):
            return f"{layer.name} transposes its input"
        by_input = w if layer.attrs.get("transB", 0) else w.T  # (N, K)
        added = layer.attrs.get("alpha", 1.0) * (by_input.astype(np.float64) @ h)
        w = _times(w, g[None] if layer.attrs.get("transB", 0) else g[:, None])
        return _store(graph, layer, w, _bias(layer) + added, same_weight=affine.keeps_scale)
    if not affine.keeps_zero and not unpadded(layer):
        return f"the padding of {layer.name} is not shifted"
    group = int(layer.attrs.get("group", 1))
    bias = _bias(layer)
    if not affine.keeps_zero:
        grouped = w.astype(np.float64).reshape(group, w.shape[0] // group, w.shape[1], -1)
        bias = bias + np.einsum("goik,gi->go", grouped, h.reshape(group, -1)).reshape(-1)
    return _store(graph, layer, _by_input(w, g, group), bias, same_weight=affine.keeps_scale)


def _by_input(w: Floats, g: F64, group: int) -> Floats:
    """A weight (rows, C / group, *kernel) with its second axis times g (C,); part i of the rows has part i of g."""
    return _times(w, np.repeat(g, math.prod(w.shape[2:])).reshape(group, -1))


def _times(w: Floats, gain: F64) -> Floats:
    """w, rows by columns (further axes count as columns), times `gain` (k, columns or 1), each row of it for rows / k.

    Products are float64, rounded once, in numpy's own small buffer: those of a layer would be twice its weights.
    """
    rows = w.reshape(len(gain), len(w) // max(1, len(gain)), math.prod(w.shape[1:]))
    found = np.empty_like(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(rows, gain[:, None], out=found, dtype=np.float64, casting="unsafe")
    return found.reshape(w.shape)


def unpadded(conv: Node) -> bool:
    """Whether a convolution adds no zeros around its input."""
    mode = conv.attrs.get("auto_pad", "NOTSET")
    return mode == "VALID" or (mode == "NOTSET" and not any(conv.attrs.get("pads", [])))


def _dims(layer: Node) -> Sequence[int]:
    weight = layer.inputs[1]
    return [] if weight is None or weight.shape is None else [d for d in weight.shape if isinstance(d, int)]


def _weight(layer: Node) -> Floats:
    weight = layer.inputs[1]
    if weight is None:
        raise ValueError(f"{layer.name} has no weight")
    return weight.values


def _bias(layer: Node) -> F64:
    """What a layer adds, (C_out,); zeros where it has no bias."""
    bias = input_at(layer, 2)
    if bias is None:
        return np.zeros(output_channels(layer))
    beta = layer.attrs.get("beta", 1.0)
    return np.broadcast_to(beta * bias.values.astype(np.float64).reshape(-1), (output_channels(layer),))


def _store(graph: LpGraph, layer: Node, w: Floats, b: F64, *, same_weight: bool) -> str | None:
    weight = layer.inputs[1]
    dtype = np.dtype(np.float32) if weight is None or weight.dtype is None else weight.dtype
    new_w, new_b = w, _cast(b, dtype)
    if not (_finite(new_w) and _finite(new_b)):
        return f"the folded constants of {layer.name} are not finite"
    wants_bias = layer.op != "MatMul" and (input_at(layer, 2) is not None or bool(b.any()))
    if not same_weight:
        graph.set_weights(layer, new_w, new_b if wants_bias else None)
    elif wants_bias:
        layer.set_input(2, graph.constant(f"{layer.name}/bias", new_b))
    if wants_bias:
        layer.attrs.pop("beta", None)
    return None


def _cast(array: F64, dtype: np.dtype) -> NDArray[np.generic]:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _finite(array: NDArray[np.generic]) -> bool:
    return bool(np.isfinite(array).all())
