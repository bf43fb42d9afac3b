"""The plan as one readable node a layer: calls of `lpcompile` functions, movement on codes, Q and DQ at the edges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from lpcompile.ir import domain
from lpcompile.ir.channel_norm import following_bias
from lpcompile.ir.cones import Cone
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import BINARY, CLAMPS, DATA_INPUTS, bounds, data_inputs, following_clamp
from lpcompile.ir.node import Node
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.materialise.held import product_scale, sum_scales
from lpcompile.materialise.layers import LayerWriter
from lpcompile.materialise.movement import clamped, write_clamp, write_movement
from lpcompile.materialise.names import stem
from lpcompile.materialise.norms import write_norm
from lpcompile.materialise.recurrent_layers import write_recurrent_layers
from lpcompile.materialise.row_tables import write_row_tables
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import Kernel, QuantPlan


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of integer work.

    Attributes:
        node: the float node.
        clamp: a Relu or Clip right after it that is absorbed, or None.
        output: the planned tensor that it fills, or None where it gives floats.
        bias: an Add of constants between the node and the clamp that is absorbed, or None.
        cone: of which it is the last node, where its own inputs are not integers but the source is, or it has no
            form on codes of its own, as Max(x, x).
    """

    node: Node
    clamp: Node | None
    output: Value | None
    bias: Node | None = None
    cone: Cone | None = None

    @property
    def filled(self) -> list[Value]:
        """Tensors that it fills: what stands between it and what it absorbs is held nowhere."""
        alone = self.clamp is None and self.bias is None
        return [o for o in (self.node.outputs if alone else [self.output]) if o is not None]


def units(graph: LpGraph, cones: Mapping[str, Cone] = MappingProxyType({})) -> list[Unit]:
    """The integer work of a graph under its plan, in execution order."""
    plan, found, absorbed = graph.plan, [], set()
    for node in graph.nodes():
        layer = plan.layers.get(node.name)
        integer = (layer is not None and layer.kernel is Kernel.INTEGER) or (
            node.name in plan.elementwise and all(v.name in plan.activations for v in data_inputs(node))
        )
        cone = cones.get(node.name) if node.name in plan.elementwise else None
        if integer and (layer is not None or form_of(node) is not None):
            cone = None
        if cone is not None and cone.source.name not in plan.activations:
            cone = None
        if (integer or cone is not None) and node.name not in absorbed:
            out = node.outputs[0]
            clamp, bias = None, _absorbed_bias(node, plan)
            if bias is not None:
                absorbed.add(bias.name)
                out = bias.outputs[0]
            if out is not None and out.name not in plan.activations:
                clamp = following_clamp(out)
                if clamp is not None:
                    absorbed.add(clamp.name)
                    out = clamp.outputs[0]
            found.append(Unit(node, clamp, out, bias, cone))
        elif layer is not None and layer.kernel not in (Kernel.FLOAT, Kernel.INTEGER):
            found.append(Unit(node, None, None))
    return found


def _absorbed_bias(node: Node, plan: QuantPlan) -> Node | None:
    """The bias after a MatMul that it takes in: the product itself is then held nowhere."""
    y = node.outputs[0]
    if node.op != "MatMul" or node.name not in plan.layers or y is None or y.name in plan.activations:
        return None
    bias = following_bias(y)
    return bias if bias is not None and bias.name in plan.elementwise else None


def materialise_functions(graph: LpGraph) -> tuple[LpGraph, dict[str, int]]:
    """A copy of the graph in which the plan has become nodes, and the bytes of every layer's stored weights."""
    result = with_planned_constants(graph)
    write_row_tables(result)
    recurrent = write_recurrent_layers(result)
    tensors = IntegerTensors(result, result.plan)
    writer = LayerWriter(result, tensors)
    filled: list[Value] = []
    for unit in units(result):
        node, output, outputs = unit.node, unit.output, unit.filled
        layer = result.plan.layers.get(node.name)
        if layer is not None:
            writer.write(node, layer, output)
        elif node.op in DATA_INPUTS:
            write_movement(result, tensors, node)
        elif node.op in CLAMPS:
            write_clamp(result, tensors, node)
        else:
            assert output is not None
            _write_elementwise(result, tensors, node, output)
        if unit.clamp is not None and output is not None:
            limits = bounds(unit.clamp)
            assert limits is not None
            codes = tensors.codes(output)
            tensors.take_out(unit.clamp)
            tensors.fill(output, clamped(result, tensors, output, codes, limits, unit.clamp.name))
        if layer is None or layer.kernel is Kernel.INTEGER:
            filled += outputs
    for value in filled:
        tensors.dequantize(value)
    return result, {**writer.weight_bytes, **recurrent}


def _write_elementwise(graph: LpGraph, tensors: IntegerTensors, node: Node, output: Value) -> None:
    if form_of(node) is Form.NORM:
        write_norm(graph, tensors, node, output)
        return
    code_max = graph.plan.activations[output.name].code_max
    function = domain.quant_elementwise(node.op, graph.opset, code_max)
    add_function(graph, function)
    values = [v for v in node.inputs[: 2 if node.op in BINARY else 1] if v is not None]
    scales = _scales(graph, tensors, node, [*values, output])
    inputs: list[Value] = []
    for value, scale in zip(values, scales, strict=False):
        inputs += [tensors.codes(value), scale, tensors.parameters(value.name)[1]]
    inputs += [scales[-1], tensors.parameters(output.name)[1]]
    attrs = {k: v for k, v in dict(node.attrs).items() if k in function.attribute}
    tensors.take_out(node)
    call = graph.add_node(
        function.name,
        inputs,
        [tensors.name_of_codes(output)],
        name=node.name,
        attrs=attrs,
        domain=DOMAIN,
        metadata={**node.metadata, "lpcompile.kernel": "integer"},
    )
    tensors.fill(output, tensors.filled(call))


def _scales(graph: LpGraph, tensors: IntegerTensors, node: Node, values: Sequence[Value]) -> list[Value]:
    """Scales of the operands and the result; where the plan holds multipliers, these, and 1 for the others."""
    held = graph.plan.requants.get(node.name)
    if held is None or node.op not in BINARY:
        return [tensors.parameters(v.name)[0] for v in values]
    first, second, y = (graph.plan.activations[v.name] for v in values)
    if node.op == "Mul":
        found = [product_scale((first, second), y, held)]
    else:
        found = list(sum_scales((first, second), y, held))
    constants = [
        graph.constant(f"{stem(node.name)}/multiplier_{i}", np.array(m, np.float32))
        for i, m in enumerate(found)
    ]
    return [*constants, *[tensors.one()] * (len(values) - len(constants))]
