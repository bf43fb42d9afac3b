"""Norms that no layer took in, on codes in ONNX Runtime: a convolution of one product a channel.

y = clip(rne((w8 * (x - x_zero_point) + bias) * w_scale) + y_zero_point) with w8 = +-64 and w_scale = |M| / 64, so that
the multiplier is exactly the planned one, and the bias has steps of a 64th of what a step of the input gives. Between
convolutions it keeps their layout, where a float norm costs two changes of it and of type. [neseem2024, notes 2.3]
"""

import numpy as np

from lpcompile.formats.base import resolve
from lpcompile.ir import domain
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.decode import Storage
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.materialise.held import norm_line
from lpcompile.materialise.names import stem
from lpcompile.materialise.storage import quantize_bias
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import TARGETS_OWN

UNIT = 64  # two products of 8-bit codes with it stay within int16, which older processors sum them in
LEAST_SCALE = 2.0**-20  # of w8: biases of 2^11 steps still fit int32


def write_norm(graph: LpGraph, tensors: IntegerTensors, node: Node, output: Value) -> None:
    """Write one norm, and fill the codes of `output`."""
    norm, (x,) = channel_norm(node), data_inputs(node)
    assert norm is not None
    x_plan, y_plan = (tensors.plan.activations[v.name] for v in (x, output))
    held = tensors.plan.requants.get(node.name, TARGETS_OWN)
    multiplier, shift = norm_line(norm, x_plan, y_plan, held)
    shift = shift + multiplier * x_plan.zero_point  # of x - x_zero_point
    scale = np.maximum(np.abs(multiplier) / UNIT, LEAST_SCALE).astype(np.float32)
    w8 = np.rint(multiplier / scale).astype(np.int8)
    shape = [len(w8), 1, *[1] * norm.trailing]
    constants = {
        "weight_quantized": w8.reshape(shape),
        "weight_scale": scale,
        "bias_quantized": quantize_bias(shift, 1.0, scale),
    }
    w, s, b = (graph.constant(f"{stem(node.name)}/{role}", np.asarray(a)) for role, a in constants.items())
    function = domain.quant_norm(Storage(resolve("int8")), graph.opset, code_max=y_plan.code_max)
    add_function(graph, function)
    x_zero, y_zero = (tensors.parameters(v.name)[1] for v in (x, output))
    one = tensors.one()
    inputs = [tensors.codes(x), one, x_zero, w, s, one, y_zero, b]
    attributes = {"weight_shape": shape, "group": len(w8), "kernel_shape": shape[2:]}
    told = {
        **node.metadata,
        "lpcompile.kernel": "integer",
        "lpcompile.multiplier": held.multiplier or "float",
    }
    tensors.take_out(node)
    call = graph.add_node(
        function.name,
        inputs,
        [tensors.name_of_codes(output)],
        name=node.name,
        attrs={k: v for k, v in attributes.items() if k in function.attribute},
        domain=DOMAIN,
        metadata=told,
    )
    tensors.fill(output, tensors.filled(call))


def hold_constants(graph: LpGraph, node: Node, output: Value) -> None:
    """Give a float norm the slopes and shifts that its planned multiplier stands for, in place.

    A Mul has no shift of its own, and Div, Add and Sub keep what they have: their slope is not among their constants.
    """
    held, norm, (x,) = graph.plan.requants.get(node.name), channel_norm(node), data_inputs(node)
    if held is None or norm is None or node.op not in ("BatchNormalization", "Mul"):
        return
    x_plan, y_plan = (graph.plan.activations[v.name] for v in (x, output))
    multiplier, shift = norm_line(norm, x_plan, y_plan, held)
    slope = multiplier * y_plan.scale / x_plan.scale
    offset = (shift + multiplier * x_plan.zero_point) * y_plan.scale
    if node.op == "Mul":
        at, constant = next((i, v) for i, v in enumerate(node.inputs) if v is not None and v.is_constant)
        found = {at: slope.reshape(constant.values.shape)}
    else:
        *_, mean, variance = (v.values.astype(np.float64) for v in node.inputs[1:5] if v is not None)
        spread = np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        found = {1: slope * spread, 2: offset + slope * mean}
    for i, array in found.items():
        node.set_input(i, graph.constant(f"{stem(node.name)}/held_{i}", array.astype(np.float32)))
