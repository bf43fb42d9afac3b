"""The plan as portable QDQ: float operators between QuantizeLinear and DequantizeLinear pairs, weights as int8 and DQ.

The form that other execution providers and converters take. Same codes, scales and zero points as the functions.
Weights are stored as their int8 image, so this form has no 4-bit size. Multipliers that the plan holds in few bits are
in the scales of weights and the constants of norms; sums keep the scales of their tensors. [ort-lowering 10, 15]
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.errors import TargetError
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.ir.value import Value
from lpcompile.materialise.float8_chain import Float8Chain
from lpcompile.materialise.functions import Unit, units
from lpcompile.materialise.held import HeldLine, held_line_of
from lpcompile.materialise.layers import LayerWriter, metadata
from lpcompile.materialise.names import stem
from lpcompile.materialise.norms import hold_constants
from lpcompile.materialise.recurrent_layers import write_recurrent_layers
from lpcompile.materialise.row_tables import write_row_tables
from lpcompile.materialise.storage import image_rows, quantize_bias
from lpcompile.materialise.tensors import QUANTIZED, IntegerTensors
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan
from lpcompile.quant.rows import channel_axis, from_rows


def materialise_qdq(graph: LpGraph, *, float8: bool = False) -> tuple[LpGraph, dict[str, int]]:
    """A copy of the graph with QDQ pairs, and the bytes of every layer's stored weights.

    Args:
        graph: float graph and plan.
        float8: write layers that compute in FP8 with float8 tensors (opset 21), not as floats that hold its numbers.
    """
    result = with_planned_constants(graph)
    write_row_tables(result)
    recurrent = write_recurrent_layers(result, portable=True)
    tensors = IntegerTensors(result, result.plan)
    expanding = LayerWriter(result, tensors, Float8Chain(result) if float8 else None)
    weight_bytes = expanding.weight_bytes
    work = units(result)
    reads = integer_reads(result, work)
    for unit in work:
        layer = result.plan.layers.get(unit.node.name)
        if layer is not None and layer.kernel is Kernel.NBITS:
            # No portable form rounds inputs by blocks. Floats stay within the bound that holds for the kernel.
            expanding.write(unit.node, replace(layer, kernel=Kernel.WEIGHT_ONLY), None)
        elif layer is not None and layer.kernel in (Kernel.WEIGHT_ONLY, Kernel.DYNAMIC, Kernel.FLOAT8):
            # No pair says this: DQ and MatMul alone become MatMulNBits, with activations quantised unasked.
            expanding.write(unit.node, layer, None)
        elif layer is not None:
            line = held_line_of(unit.node, layer, result.plan, unit.output)
            weight_bytes[unit.node.name] = _weights(result, unit.node, layer, line)
        elif unit.output is not None and form_of(unit.node) is Form.NORM:
            hold_constants(result, unit.node, unit.output)
    for value, readers in reads:
        _pair(result, tensors, value, readers)
    return result, {**weight_bytes, **recurrent}


def integer_reads(graph: LpGraph, work: Sequence[Unit]) -> list[tuple[Value, list[Node]]]:
    """Planned tensors that are read as integers, and by whom: every node that does; [] means by everybody."""
    found: dict[str, tuple[Value, list[Node]]] = {}
    filled: set[str] = set()
    for unit in work:
        layer = graph.plan.layers.get(unit.node.name)
        if layer is None or layer.kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT):
            for value in unit.node.inputs:
                if value is not None and value.name in graph.plan.activations:
                    found.setdefault(value.name, (value, []))[1].append(unit.node)
        if unit.output is not None and (layer is None or layer.kernel is Kernel.INTEGER):
            for value in unit.filled:
                filled.add(value.name)
                found.setdefault(value.name, (value, []))
    # Every reader of what an integer node fills sees the quantised numbers.
    return [(value, [] if name in filled else readers) for name, (value, readers) in found.items()]


def fake_quantised(graph: LpGraph, learned: Collection[str] = ()) -> LpGraph:
    """A copy of the graph that computes with floats, its planned activations rounded; weights are as they were.

    What gradients are taken of: nothing but floats stands between a parameter and the loss, but for the pairs.

    Args:
        graph: with a plan.
        learned: tie groups whose scale comes out of a node `scale_node(group)`, so that it can be trained.
    """
    result = with_planned_constants(graph)
    tensors = IntegerTensors(result, result.plan)
    scales: dict[str, Value] = {}
    for value, readers in integer_reads(result, units(result)):
        group = result.plan.activations[value.name].tie_group
        if group in learned and group not in scales:
            constant, _ = tensors.parameters(value.name)
            node = result.add_node("Identity", [constant], name=scale_node(group))
            scales[group] = IntegerTensors.filled(node)
            result.set_type(scales[group], np.dtype(np.float32), ())
        _pair(result, tensors, value, readers, clip=True, learned=scales.get(group))
    return result


def scale_node(tie_group: str) -> str:
    """Name of the node that gives the scale of a tie group, where it is to be trained."""
    return f"{stem(tie_group)}/learned_scale"


def rounded_floats(graph: LpGraph) -> LpGraph:
    """The same with weights and biases of rounded layers as planned: what the plan computes, in floats."""
    result = fake_quantised(graph)
    for name, plan in graph.plan.layers.items():
        if plan.tensor is not None:
            node = result.node(name)
            weight = node.inputs[1]
            assert weight is not None
            rows = from_rows(node.op, plan.tensor.dequantize(), weight.dims)
            result.set_weights(node, np.asarray(rows, np.float32), planned_bias(node, plan))
    return result


def _pair(
    graph: LpGraph,
    tensors: IntegerTensors,
    value: Value,
    only: list[Node],
    *,
    clip: bool = False,
    learned: Value | None = None,
) -> None:
    """A Q-DQ pair on `value`, read by the nodes in `only`, or by everybody where that is empty.

    Args:
        graph: is added to.
        tensors: scales and zero points.
        value: the planned tensor.
        only: readers, or none.
        clip: hold 4-bit ranges by a Clip of the floats before they are rounded, not by one of the codes after it.
        learned: what gives the scale in place of the constant.
    """
    scale, zero = tensors.parameters(value.name)
    scale = scale if learned is None else learned
    plan = graph.plan.activations[value.name]
    floats, first = value, None
    if clip and plan.code_max < 255:
        ends = [_end(graph, plan, k, code, learned) for k, code in (("low", 0), ("high", plan.code_max))]
        first = graph.add_node("Clip", [value, *ends])
        floats = IntegerTensors.filled(first)
        graph.set_type(floats, np.dtype(np.float32), value.shape)
    quantize = graph.add_node("QuantizeLinear", [floats, scale, zero], [graph.fresh(value.name + QUANTIZED)])
    first = first or quantize
    codes = IntegerTensors.filled(quantize)
    graph.set_type(codes, np.dtype(np.uint8), value.shape)
    if plan.code_max < 255 and not clip:
        top = graph.constant(f"{stem(plan.tie_group)}_code_max", np.array(plan.code_max, np.uint8))
        codes = IntegerTensors.filled(graph.add_node("Min", [codes, top]))
    back = IntegerTensors.filled(graph.add_node("DequantizeLinear", [codes, scale, zero]))
    graph.set_type(back, np.dtype(np.float32), value.shape)
    if only:
        names = {n.name for n in only}
        graph.replace_uses(value, back, only=lambda n: n.name in names)
    else:
        graph.replace_uses(value, back, only=lambda n: n.name != first.name)
        if value.is_output or value.used_in_subgraph:
            _swap_output(graph, value, back, first)


def _end(graph: LpGraph, plan: ActivationPlan, role: str, code: int, learned: Value | None) -> Value:
    """One end of a range, the value of a code."""
    name = f"{stem(plan.tie_group)}_{role}"
    if learned is None:
        return graph.constant(name, np.array(plan.scale * (code - plan.zero_point), np.float32))
    steps = graph.constant(name, np.array(code - plan.zero_point, np.float32))
    end = IntegerTensors.filled(graph.add_node("Mul", [learned, steps]))
    graph.set_type(end, np.dtype(np.float32), ())
    return end


def _swap_output(graph: LpGraph, value: Value, back: Value, first: Node) -> None:
    inner = graph.add_node("Identity", [value])  # keeps the float side alive under a new name
    source = value.producer
    assert source is not None
    graph.replace_uses(value, back)
    for i, v in enumerate(first.inputs):
        if v == back:
            first.set_input(i, source.outputs[0])
    graph.remove(inner)


def _weights(graph: LpGraph, node: Node, plan: LayerPlan, line: HeldLine | None) -> int:
    weight = node.inputs[1]
    assert weight is not None
    if plan.tensor is not None and plan.tensor.side is not None and plan.tensor.side.apart:
        raise TargetError(
            "QDQ form has no side paths that stay apart",
            where=node.name,
            hint="use insert-lora{lowering=merged}, or another --emit",
        )
    w8, scale = image_rows(plan)
    scale = np.broadcast_to(scale.reshape(-1), (w8.shape[0],)).astype(np.float32)
    if line is not None:
        scale = line.weight_scale
    axis = channel_axis(node.op)
    codes = graph.constant(f"{stem(node.name)}/weight_quantized", from_rows(node.op, w8, weight.dims))
    scales = graph.constant(f"{stem(node.name)}/weight_scale", scale)
    zero = graph.constant(f"{stem(node.name)}/weight_zero_point", np.zeros(len(scale), np.int8))
    back = graph.add_node(
        "DequantizeLinear", [codes, scales, zero], attrs={"axis": axis}, name=f"{node.name}/weight"
    )
    node.set_input(1, IntegerTensors.filled(back))
    x, bias = node.inputs[0], planned_bias(node, plan) if line is None else line.bias
    if bias is not None and plan.kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT) and x is not None:
        x_scale = graph.plan.activations[x.name].scale
        ints = quantize_bias(bias, x_scale, scale)
        assert ints is not None
        b = graph.constant(f"{stem(node.name)}/bias_quantized", ints)
        unit = graph.constant(f"{stem(node.name)}/bias_scale", np.float32(x_scale) * scale)
        none = graph.constant(f"{stem(node.name)}/bias_zero_point", np.zeros(len(scale), np.int32))
        b_back = graph.add_node(
            "DequantizeLinear", [b, unit, none], attrs={"axis": 0}, name=f"{node.name}/bias"
        )
        node.set_input(2, IntegerTensors.filled(b_back))
    node.metadata.update(metadata(plan))
    return w8.nbytes + scale.nbytes + len(scale)
