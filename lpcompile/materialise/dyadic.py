"""The plan as an integer reference graph: `dyadic` calls between the first QuantizeLinear and the last floats.

A layer whose output nobody reads as integers gives its int32 sums; DequantizeLinear and Add make floats of them.
Moves and clamps are standard operators on codes. [architecture 3.5]
"""

from lpcompile.ir.cones import table_cones
from lpcompile.ir.facts import Fact
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.ir.value import Value
from lpcompile.materialise.dyadic_elementwise import ElementwiseWriter
from lpcompile.materialise.dyadic_layers import DyadicLayerWriter
from lpcompile.materialise.functions import Unit, units
from lpcompile.materialise.layers import LayerWriter
from lpcompile.materialise.movement import write_clamp
from lpcompile.materialise.recurrent_layers import write_recurrent_layers
from lpcompile.materialise.row_tables import write_row_tables
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import Kernel
from lpcompile.quant.dyadic_numbers import DyadicNumbers


def materialise_dyadic(graph: LpGraph) -> tuple[LpGraph, dict[str, int], DyadicNumbers]:
    """The reference graph of a float graph and its plan; the graph itself stays float.

    Returns:
        The new graph; for each quantised layer the bytes of what holds its weights and scales; its integers.
    """
    result = with_planned_constants(graph)
    write_row_tables(result)
    recurrent = write_recurrent_layers(result, portable=True)
    tensors = IntegerTensors(result, result.plan)
    numbers = DyadicNumbers()
    layers = DyadicLayerWriter(result, tensors, numbers)
    elementwise = ElementwiseWriter(result, tensors, numbers)
    floats = LayerWriter(result, tensors)  # layers that keep floats around them
    filled: list[Value] = []
    for unit in units(result, table_cones(result, held=result.plan.activations.keys())):
        plan = result.plan.layers.get(unit.node.name)
        outputs = unit.filled
        if plan is not None and plan.kernel in (Kernel.WEIGHT_ONLY, Kernel.DYNAMIC):
            floats.write(unit.node, plan, None)
        elif plan is not None:
            layers.write(unit, plan)
        else:
            _write_elementwise(result, tensors, elementwise, unit)
        for taken in (unit.bias, unit.clamp):
            if taken is not None:
                tensors.take_out(taken)
        if plan is None or plan.kernel is Kernel.INTEGER:
            filled += outputs
    for value in filled:
        tensors.dequantize(value)
    result.facts = {*graph.facts, Fact.MATERIALISED}
    return result, {**recurrent, **floats.weight_bytes, **layers.weight_bytes}, numbers


def _write_elementwise(
    graph: LpGraph, tensors: IntegerTensors, writer: ElementwiseWriter, unit: Unit
) -> None:
    node, form = unit.node, form_of(unit.node)
    if unit.cone is not None:
        form = Form.TABLE
    assert form is not None, "the target refuses nodes without a form"
    if form is Form.MOVE:
        writer.write_move(node)
    elif form is Form.CLAMP and writer.alike(data_inputs(node)[0], unit.output or data_inputs(node)[0]):
        write_clamp(graph, tensors, node)
    else:
        writer.write(unit, Form.TABLE if form is Form.CLAMP else form)
