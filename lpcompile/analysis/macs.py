"""Multiply-accumulates and shapes of layers, from the shapes of the graph."""

import math
from collections.abc import Mapping

import numpy as np

from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.target import LayerShape

EXPORT_AGAIN = "export the model again; onnx.checker.check_model tells more"


def layer_shape(node: Node) -> LayerShape:
    """What a cost table may know of a layer; `rows` is None where axes are symbolic (a batch axis is 1)."""
    weight, x, y = node.inputs[1], node.inputs[0], node.outputs[0]
    shape = tuple(int(d) for d in (weight.shape or ()) if isinstance(d, int)) if weight is not None else ()
    out = None if y is None else y.shape
    rank = None if x is None or x.shape is None else len(x.shape)
    group = node.attrs.get("group", 1)
    if not isinstance(group, int):  # of a node that no runtime has read yet
        raise ModelError(f"attribute 'group' of a {node.op} is no number", where=node.name, hint=EXPORT_AGAIN)
    if node.op in ("Conv", "ConvTranspose"):
        pixels = (out if node.op == "Conv" else None if x is None else x.shape) or ()
        outputs = shape[0] if node.op == "Conv" else shape[1] * group
        inputs = math.prod(shape[1:]) if node.op == "Conv" else math.prod(shape) // max(1, outputs)
        rows = _product(pixels[2:]) if len(pixels) > 2 else None
        elements = None if x is None or not x.shape else _product(list(x.shape[1:]))
        return LayerShape(node.op, rank, inputs, outputs, rows, group, shape[2:], elements)
    transposed = node.op == "Gemm" and node.attrs.get("transB", 0)
    inputs, outputs = (
        (shape[1], shape[0]) if transposed else (shape[-2], shape[-1]) if len(shape) > 1 else (shape[0], 1)
    )
    rows = (
        None
        if out is None
        else _product([1 if isinstance(d, str) and i == 0 else d for i, d in enumerate(out[:-1])])
    )
    elements = None if rows is None else rows * inputs
    return LayerShape(node.op, rank, inputs, outputs, rows, input_elements=elements)


def fixed_rows(node: Node) -> int | None:
    """Rows of a MatMul or Gemm that every call has; None where an axis is symbolic, the batch axis too."""
    out = None if node.outputs[0] is None else node.outputs[0].shape
    return None if out is None else _product(list(out[:-1]))


def macs(node: Node) -> int | None:
    """Multiply-accumulates of a call, of one image for a convolution; None where a shape is not known."""
    shape = layer_shape(node)
    return None if shape.rows is None else shape.inputs * shape.outputs * shape.rows


def macs_of_call(node: Node) -> int | None:
    """Multiply-accumulates of a call, all images that it always has; a symbolic batch is 1."""
    x, found = node.inputs[0], macs(node)
    first = x.shape[0] if node.op in ("Conv", "ConvTranspose") and x is not None and x.shape else 1
    return found * first if found is not None and isinstance(first, int) else found


def macs_on(graph: LpGraph, feeds: Mapping[str, np.ndarray]) -> int:
    """Multiply-accumulates of all layers for these inputs, whose shapes settle symbolic axes; unknown layers count 0.

    Args:
        graph: the float graph; it is not changed.
        feeds: of one call.
    """
    shaped = graph.copy()
    shaped.infer_shapes({name: array.shape for name, array in feeds.items()})
    return sum(macs_of_call(node) or 0 for node in shaped.layers())


def _product(dims: object) -> int | None:
    total = 1
    for d in dims if isinstance(dims, (list, tuple)) else ():
        if not isinstance(d, int):
            return None
        total *= d
    return total
