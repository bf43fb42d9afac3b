"""How a plan holds a layer, in the terms of costs."""

from lpcompile.assignment.layer_facts import FLOAT_BITS, LayerFormat
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import FLOAT8_FORMAT, STATIC, Kernel, LayerPlan, WeightPlan

NAMES_AT_RUN_TIME = {Kernel.DYNAMIC: "uint8 (dynamic)", Kernel.NBITS: "int8 (dynamic, blocks of 32)"}


def layer_plan(graph: LpGraph, node: Node) -> LayerPlan:
    """The decision about a layer, also where there is none."""
    return graph.plan.layers.get(node.name, LayerPlan(reason="the pipeline quantises nothing"))


def is_quantised(plan: LayerPlan) -> bool:
    """Whether a layer has codes."""
    return plan.kernel is not Kernel.FLOAT and plan.tensor is not None


def activation_format(graph: LpGraph, node: Node) -> str:
    """What a layer multiplies its weights with."""
    kernel, x, weight = layer_plan(graph, node).kernel, node.inputs[0], node.inputs[1]
    assert weight is not None
    activation = graph.plan.activations.get(x.name) if x is not None else None
    if kernel in (*STATIC, Kernel.FLOAT8) and activation is not None:
        return activation.format
    return NAMES_AT_RUN_TIME.get(kernel, str(weight.dtype))


def activation_bits(name: str) -> int:
    """Width of a format that `activation_format` gives."""
    if name == FLOAT8_FORMAT:
        return 8
    if name in FLOAT_BITS:
        return FLOAT_BITS[name]
    word = name.split()[0].removeprefix("u").removeprefix("int")
    return int(word) if word.isdecimal() else 32


def held_format(graph: LpGraph, node: Node) -> LayerFormat:
    """How the plan holds a layer."""
    plan, weight = layer_plan(graph, node), node.inputs[1]
    assert weight is not None
    bits = activation_bits(activation_format(graph, node))
    if is_quantised(plan):
        return LayerFormat(plan.weight, bits, plan.kernel)
    return LayerFormat(WeightPlan(str(weight.dtype)), bits)
