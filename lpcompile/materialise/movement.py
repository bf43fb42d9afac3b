"""Nodes that move or select numbers, run on the codes themselves: no dequantise-quantise pair is needed around them.

`clip(codes, q(low), q(high))` is Relu, Relu6 or Clip when input and output share scale and zero point.
"""

from collections.abc import Callable

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import DATA_INPUTS, bounds
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import ActivationPlan


def code_bounds(limits: tuple[float, float], plan: ActivationPlan) -> tuple[int, int]:
    """The codes of a clamp's bounds: what lies outside the range of the tensor is clipped by the tensor itself."""
    low, high = (
        int(
            np.clip(np.rint(np.clip(v, plan.low, plan.high) / plan.scale) + plan.zero_point, 0, plan.code_max)
        )
        for v in limits
    )
    return low, high


CodesOf = Callable[[int, Value], Value]


def write_movement(
    graph: LpGraph, tensors: IntegerTensors, node: Node, codes_of: CodesOf | None = None
) -> None:
    """Rewrite one moving node to work on codes.

    Args:
        graph: it stands in.
        tensors: its codes.
        node: the float node.
        codes_of: codes of operand i in the scale of the output; None leaves another scale to ONNX Runtime.
    """
    data = DATA_INPUTS[node.op]
    inputs: list[Value | None] = node.inputs
    outputs = [o for o in node.outputs if o is not None]
    values = [v for v in inputs[data] if v is not None]
    if codes_of is None and any(
        tensors.parameters(v.name) != tensors.parameters(outputs[0].name) for v in values
    ):
        _write_requantising(graph, tensors, node, values, outputs[0])
        return
    inputs[data] = [tensors.codes(v) if codes_of is None else codes_of(i, v) for i, v in enumerate(values)]
    if node.op == "Pad":
        inputs = _pad_with_zero_point(graph, tensors, node, inputs, outputs[0])
    tensors.take_out(node)
    names = [tensors.name_of_codes(o) for o in outputs]
    call = graph.add_node(
        node.op, inputs, names, name=node.name, attrs=dict(node.attrs), metadata=node.metadata
    )
    for old, new in zip(outputs, call.outputs, strict=True):
        assert new is not None
        tensors.fill(old, new)


def _write_requantising(
    graph: LpGraph, tensors: IntegerTensors, node: Node, values: list[Value], output: Value
) -> None:
    """A Concat of operands with scales of their own: ONNX Runtime fuses this into one QLinearConcat."""
    operands: list[Value | None] = []
    for i, value in enumerate(values):
        inputs = [tensors.codes(value), *tensors.parameters(value.name)]
        call = graph.add_node("DequantizeLinear", inputs, name=f"{node.name}/dequantize{i}")
        operand = tensors.filled(call)
        graph.set_type(operand, np.dtype(np.float32), value.shape)
        operands.append(operand)
    tensors.take_out(node)
    attrs, shape = dict(node.attrs), output.shape
    call = graph.add_node(node.op, operands, name=node.name, attrs=attrs, metadata=node.metadata)
    graph.set_type(tensors.filled(call), np.dtype(np.float32), shape)
    tensors.fill(output, tensors.quantize(output, tensors.filled(call)))


def _pad_with_zero_point(
    graph: LpGraph, tensors: IntegerTensors, node: Node, inputs: list[Value | None], output: Value
) -> list[Value | None]:
    """Padding pads with the code of the padding value, which is the zero point for zero. [architecture 3.3]."""
    if node.attrs.get("mode", "constant") != "constant":
        return inputs
    plan = tensors.plan.activations[output.name]
    given = node.inputs[2] if len(node.inputs) > 2 else None
    value = 0.0 if given is None else float(given.values)
    code = code_bounds((value, value), plan)[0]
    inputs = [*inputs, None, None][: max(3, len(inputs))]
    inputs[2] = graph.constant(f"{node.name}/pad_code", np.array(code, np.uint8))
    return inputs


def write_clamp(graph: LpGraph, tensors: IntegerTensors, node: Node) -> None:
    """Rewrite a Relu or Clip that stands alone: a clip of codes, or nothing where the range implies it."""
    x, y = node.inputs[0], node.outputs[0]
    limits = bounds(node)
    assert x is not None
    assert y is not None
    assert limits is not None, "quantize-activations takes only clamps with constant bounds"
    codes = tensors.codes(x)
    tensors.take_out(node)
    tensors.fill(y, clamped(graph, tensors, y, codes, limits, node.name))


def clamped(
    graph: LpGraph, tensors: IntegerTensors, y: Value, codes: Value, limits: tuple[float, float], name: str
) -> Value:
    """Codes of `y` held to the codes of `limits`; the codes themselves where the range already implies that."""
    plan = tensors.plan.activations[y.name]
    low, high = code_bounds(limits, plan)
    if low == 0 and high == plan.code_max:
        return codes
    ends = [
        graph.constant(f"{name}/code_{role}", np.array(v, np.uint8))
        for role, v in (("min", low), ("max", high))
    ]
    return tensors.filled(graph.add_node("Clip", [codes, *ends], [tensors.name_of_codes(y)], name=name))
