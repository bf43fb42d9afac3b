"""A plan that was read from decisions, checked against the graph that it will be carried out in."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lpcompile.errors import DecisionsError
from lpcompile.formats.planned import format_of
from lpcompile.ir import block_matmul
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import AT_RUN_TIME, Kernel, LayerPlan, QuantPlan, WeightPlan


def fitted(plan: QuantPlan, graph: LpGraph) -> tuple[QuantPlan, list[str]]:
    """A replayed plan checked against a graph, and what its owner should know.

    Raises:
        DecisionsError: it names a layer, node or tensor that is not there, or a kernel lacks an activation it needs.
    """
    warnings = []
    layers = {n.name: n for n in graph.layers()}
    for name in plan.layers:
        if name not in layers:
            raise DecisionsError(
                f"there is no layer '{name}' in the model", hint="use it with the model it was made for"
            )
    for name in plan.activations:
        if name not in graph:
            raise DecisionsError(
                f"there is no tensor '{name}' in the model", hint="use it with the model it was made for"
            )
    nodes = {n.name for n in graph.nodes()}
    for name in plan.elementwise:
        if name in layers or name not in nodes:
            what = "a layer with weights" if name in layers else "not in the model"
            raise DecisionsError(
                f"'{name}' stands under [elementwise] and is {what}",
                hint="take the line out, or compile anew",
            )
    whole = {}
    for name, node in layers.items():
        if name not in plan.layers:
            warnings.append(f"layer '{name}' is not in the decisions and stays float")
        layer = plan.layers.get(name, LayerPlan(reason="not in the decisions"))
        x = node.inputs[0]
        if layer.kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT, Kernel.FLOAT8) and (
            x is None or x.name not in plan.activations
        ):
            numbers = "FP8" if layer.kernel is Kernel.FLOAT8 else "integers"
            raise DecisionsError(
                f"layer '{name}' runs on {numbers}, but its input has no entry under [activations]",
                hint=f'add [activations."{"" if x is None else x.name}"], or set kernel = "weight-only"',
            )
        if layer.kernel in AT_RUN_TIME and node.op not in ("MatMul", "Gemm"):
            raise DecisionsError(
                f"layer '{name}': a {node.op} has no {layer.kernel} kernel",
                hint='set kernel = "weight-only"',
            )
        if layer.kernel is Kernel.NBITS and (reason := _unpacked(node, layer.weight)):
            raise DecisionsError(
                f"layer '{name}': MatMulNBits cannot hold its weights: {reason}",
                hint='set kernel = "dynamic"',
            )
        whole[name] = replace(layer, tensor=None)
    # what is of nodes without a layer is that of the float model and the target until a pass makes it anew
    nothing: Mapping[str, Any] = MappingProxyType({})
    whole_plan = replace(
        plan,
        layers=MappingProxyType(whole),
        norms=nothing,
        requants=nothing,
        tables=nothing,
        recurrent=nothing,
        reduce_range=graph.plan.reduce_range,
    )
    return whole_plan, warnings


def _unpacked(node: Node, weight: WeightPlan) -> str:
    """Why the weights of a layer cannot stay packed; empty where they can."""
    value = node.inputs[1]
    if value is None or value.shape is None or len(value.shape) != 2:
        return "they are no matrix"
    inputs = value.dims[0]
    books = bool(weight.codebooks)
    return block_matmul.obstacle(format_of(weight.format), weight.granularity, inputs, codebooks=books)
