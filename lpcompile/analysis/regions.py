"""Which nodes run on integers, and which tensors move between them without arithmetic.

Integer work grows from the layers: an elementwise or moving node joins where its inputs already come as
integers and somebody after it wants integers, so that nothing between quantised layers goes to floats and
back.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from lpcompile.analysis.ties import OUTSIDE, Join, MoveGroup
from lpcompile.ir.channel_norm import following_bias
from lpcompile.ir.cones import Cone, table_cones
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, bounds, data_inputs, following_clamp
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.target import Target

REQUANTISING = ("Concat", "Identity")  # moves that may change the scale on the way
REDUCING = ("GlobalAveragePool", "AveragePool", "MaxPool")  # fewer numbers to dequantise after than before


@dataclass
class Regions:
    """What runs on integers.

    Attributes:
        elementwise: node name -> why it runs on integers.
        skipped: node name -> why it stays float although its inputs come as integers.
        integer_out: layers whose output is taken as integers by everybody who reads it.
        tensors: every tensor held in integers, in execution order.
        groups: tensors that must share scale and zero point because codes only move between them.
        joins: the elementwise nodes whose operands may have other scales than their outputs.
    """

    elementwise: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    integer_out: set[str] = field(default_factory=set)
    tensors: list[str] = field(default_factory=list)
    groups: list[MoveGroup] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)


def find_regions(
    graph: LpGraph, target: Target, layers: Iterable[Node], keep_float: Set[str] = frozenset()
) -> Regions:
    """Grow integer work from `layers`, those with an integer kernel; nodes in `keep_float` stay out."""
    found = Regions()
    cones = table_cones(graph, keep_float) if target.rules.tables else {}
    layer_names = {n.name for n in layers}
    nodes = graph.nodes()
    # Tensors that can come as integers: outputs of layers, and their inputs, which are quantised anyway.
    supply = {n.inputs[0].name for n in nodes if n.name in layer_names and n.inputs[0] is not None}
    eligible: set[str] = set()
    for node in nodes:
        outputs = [o for o in node.outputs if o is not None]
        if node.name in layer_names:
            supply |= {o.name for o in outputs}
        elif (
            reason := "kept float on request"
            if node.name in keep_float
            else _refused(graph, target, node, supply, cones)
        ):
            if any(v.name in supply for v in node.inputs if v is not None) and reason != "unknown":
                found.skipped[node.name] = reason
        else:
            eligible.add(node.name)
            supply |= {o.name for o in outputs}
    wanted: set[str] = set()  # tensors that somebody reads as integers
    chosen: set[str] = set()
    for node in reversed(nodes):
        if node.name in layer_names and node.inputs[0] is not None:
            wanted.add(node.inputs[0].name)
        elif node.name in eligible:
            wants = any(o is not None and o.name in wanted for o in node.outputs)
            if wants or node.op in REDUCING or target.runs_last(node):
                chosen.add(node.name)
                wanted |= {v.name for v in _reads(node, cones)}
            else:
                found.skipped[node.name] = "nothing after it reads integers"
    if target.rules.fills:
        _move_results(nodes, eligible, chosen, found)
    for name in chosen & cones.keys():
        for inner in cones[name].inner - chosen:
            found.skipped.pop(inner, None)  # part of the table
    _record(graph, target, nodes, layer_names, chosen, wanted, found, cones)
    return found


def _move_results(nodes: list[Node], eligible: set[str], chosen: set[str], found: Regions) -> None:
    """Let moves of what was computed on integers follow it: codes are moved as well as floats."""
    codes = {o.name for n in nodes if n.name in chosen for o in n.outputs if o is not None}
    for node in nodes:
        if node.name in eligible - chosen and node.op in DATA_INPUTS:
            values = data_inputs(node)
            if values and all(v.name in codes for v in values):
                chosen.add(node.name)
                codes |= {o.name for o in node.outputs if o is not None}
                del found.skipped[node.name]


def _reads(node: Node, cones: Mapping[str, Cone]) -> list[Value]:
    """The tensors that a node computes from, as far as they are activations."""
    return [cones[node.name].source] if node.name in cones else data_inputs(node)


def _refused(graph: LpGraph, target: Target, node: Node, supply: set[str], cones: Mapping[str, Cone]) -> str:
    """Why a node cannot run on integers; empty where it can."""
    op = node.op
    if node.domain:
        return "unknown"
    if node.name not in cones and (reason := target.refuses(node, graph.opset)):
        return reason
    values = _reads(node, cones)
    if any(v.dtype not in (None, np.dtype(np.float32)) for v in values):
        return "not float32"
    if op in CLAMPS and bounds(node) is None:
        return "its bounds are not constant"
    if op == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None and not node.inputs[2].is_constant:
        return "the padding value is not constant"
    if op == "Resize" and node.attrs.get("mode", "nearest") != "nearest":
        return "only nearest selects without computing"
    if op == "Resize" and node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return "what lies outside is filled with a real value"
    if op == "AveragePool" and node.attrs.get("ceil_mode", 0) and node.attrs.get("count_include_pad", 0):
        return "ONNX Runtime's integer kernel counts numbers beyond the padding"
    if op == "MaxPool" and len([o for o in node.outputs if o is not None]) > 1:
        return "its indices are read"
    if op in ("AveragePool", "MaxPool") and node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "padding depends on the input shape"
    if target.rules.fills and op in DATA_INPUTS:
        return "" if values else "its input is float"  # quantising before or after a move is the same
    some = any(v.name in supply for v in values) if op == "Concat" else all(v.name in supply for v in values)
    return "" if values and some else "its input is float"


def _record(
    graph: LpGraph,
    target: Target,
    nodes: list[Node],
    layer_names: set[str],
    chosen: set[str],
    wanted: set[str],
    found: Regions,
    cones: Mapping[str, Cone],
) -> None:
    rules = target.rules
    ties: nx.Graph[str] = nx.Graph()
    absorbed: set[str] = set()
    movers: set[str] = set()

    def hold(value: Value) -> None:
        ties.add_node(value.name)
        if value.name not in found.tensors:
            found.tensors.append(value.name)

    for node in nodes:
        y = node.outputs[0] if node.outputs else None
        if node.name in layer_names and y is not None:
            if node.inputs[0] is not None:
                hold(node.inputs[0])
            bias = following_bias(y) if rules.tables and node.op == "MatMul" else None
            y = bias.outputs[0] or y if bias is not None and bias.name in chosen else y
            clamp = following_clamp(y)
            # A clamp is free even where floats follow: the codes are clipped anyway. (And a float Relu after
            # a Gemm makes ONNX Runtime fuse the two before it sees the integers.)
            absorb = clamp is not None and (clamp.name in chosen or node.op in ("Conv", "Gemm"))
            out = clamp.outputs[0] or y if clamp is not None and absorb else y
            readers = out.consumers
            integers = rules.fills or (
                readers and all(r.name in layer_names | chosen for r in readers) and not out.is_output
            )
            held = absorb and (rules.fills or node.op in ("Conv", "Gemm"))
            if node.op not in rules.float_out or (integers and out.name in wanted) or held:
                found.integer_out.add(node.name)
                hold(out)
                if bias is not None and bias.name in chosen:
                    absorbed.add(bias.name)
                    found.elementwise[bias.name] = f"absorbed by {node.name}"
                if clamp is not None and absorb:
                    absorbed.add(clamp.name)
                    found.elementwise[clamp.name] = f"absorbed by {node.name}"
        elif node.name in chosen and node.name not in absorbed and y is not None:
            found.elementwise[node.name] = "between quantised layers"
            values = _reads(node, cones)
            outputs = [o for o in node.outputs if o is not None]
            if node.op not in DATA_INPUTS and node.op not in CLAMPS:
                clamp = following_clamp(y)
                if clamp is not None and clamp.name in chosen:
                    absorbed.add(clamp.name)
                    found.elementwise[clamp.name] = f"absorbed by {node.name}"
                    outputs = [o for o in clamp.outputs if o is not None]
            for value in (*values, *outputs):
                hold(value)
            if node.op in REQUANTISING:
                found.joins.append(Join(node.name, tuple(v.name for v in values), y.name))
            elif node.op in DATA_INPUTS or node.op in CLAMPS:
                movers.add(node.name)
                nx.add_star(ties, [v.name for v in (*values, *outputs)])
    order = {name: i for i, name in enumerate(found.tensors)}
    components = [sorted(c, key=order.__getitem__) for c in nx.connected_components(ties)]
    for members in sorted(components, key=lambda c: order[c[0]]):
        values = [graph.value(t) for t in members]
        outside = {OUTSIDE} if any(v.is_output or v.used_in_subgraph for v in values) else set()
        inside = {n.name for v in values for n in v.consumers} - movers
        found.groups.append(MoveGroup(tuple(members), frozenset(inside | outside)))
