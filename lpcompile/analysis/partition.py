"""Which layers gain by staying float, boundaries counted: a minimum cut over the integer region.

A node on the integer side costs its integer time, on the float side its float time; a tensor that crosses between the
sides costs a QuantizeLinear or DequantizeLinear. Times come from the target's recorded table, so the cut is the same on
every machine. Layers of unknown shape stay on the integer side; operators that the table does not know cost nothing.
"""

from collections.abc import Set

import networkx as nx

from lpcompile.analysis.macs import layer_shape
from lpcompile.analysis.regions import Regions
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs, following_clamp
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.target import CostModel

MARGIN = 1.1  # a layer goes to float only where that is clearly faster
INTEGERS, FLOATS = "integers", "floats"
FREE_NS = 1.0  # ties fall to the integer side


def float_layers(graph: LpGraph, regions: Regions, layers: list[Node], costs: CostModel) -> dict[str, str]:
    """Layers that are faster as floats, and the figures that say so.

    Args:
        graph: with shapes; a symbolic first axis counts as 1.
        regions: integer work as it would be with every layer on integers.
        layers: those with an integer kernel.
        costs: recorded times.
    """
    flow: nx.DiGraph[str] = nx.DiGraph()
    times: dict[str, tuple[float, float]] = {}
    members = {n.name: n for n in layers} | {
        n.name: n
        for n in graph.nodes()
        if n.name in regions.elementwise and not regions.elementwise[n.name].startswith("absorbed")
    }
    for node in layers:
        known = _times(node, regions, costs)
        as_float, as_integer = (FREE_NS, 0.0) if known is None else known
        if known is None:
            flow.add_edge(INTEGERS, node.name)  # no capacity: may not be cut
            continue
        times[node.name] = (as_float, as_integer)
        flow.add_edge(INTEGERS, node.name, capacity=as_float * MARGIN)
        flow.add_edge(node.name, FLOATS, capacity=as_integer)
    for node in members.values():
        if node.name not in times and (work := _elementwise_times(node, costs)) is not None:
            flow.add_edge(INTEGERS, node.name, capacity=work[0] * MARGIN)
            flow.add_edge(node.name, FLOATS, capacity=work[1])
    names = {n.name for n in layers}
    for node in members.values():
        for value in [node.inputs[0]] if node.name in names else data_inputs(node):
            if value is None:
                continue
            maker = _maker(value, members)
            _edge(flow, maker, node.name, value, costs)
            if node.name not in names and _follows(node, value, maker, names):
                # an edge without capacity is never cut: integers are not made for the operator's sake
                flow[node.name][maker].pop("capacity", None)
            _behind_pool(flow, node, value, members, costs)
        for value in node.outputs:
            if value is not None:
                _outside(flow, node.name, value, members, regions, costs)
    if not times or FLOATS not in flow or INTEGERS not in flow:
        return {}
    _, (integers, _floats) = nx.minimum_cut(flow, INTEGERS, FLOATS)
    return {
        name: f"faster as floats: {f / 1e3:.0f} us against {i / 1e3:.0f} us and its edges ({costs.name})"
        for name, (f, i) in times.items()
        if name not in integers
    }


def _times(node: Node, regions: Regions, costs: CostModel) -> tuple[float, float] | None:
    shape = layer_shape(node)
    as_float = costs.layer_ns(shape, "float")
    as_integer = costs.layer_ns(shape, "integer" if node.name in regions.integer_out else "float-out")
    if as_integer is None:
        as_integer = costs.layer_ns(shape, "integer")
    return None if as_float is None or as_integer is None else (as_float, as_integer)


def _elementwise_times(node: Node, costs: CostModel) -> tuple[float, float] | None:
    y = node.outputs[0]
    elements = None if y is None else _elements(y)
    if elements is None:
        return None
    as_float, as_integer = (costs.elementwise_ns(node.op, elements, k) for k in ("float", "integer"))
    if as_float is None or as_integer is None:
        return None
    return (0.0 if _gates_itself(node) else as_float, as_integer)


def _gates_itself(node: Node) -> bool:
    """Whether it is x * Sigmoid(x): with floats the runtime does both in one kernel, at the price of the Sigmoid."""
    gates = [v.producer for v in node.inputs if v is not None]
    return node.op == "Mul" and any(
        g is not None and g.op in ("Sigmoid", "HardSigmoid") and g.inputs[0] in node.inputs for g in gates
    )


def _maker(value: Value, members: dict[str, Node]) -> str:
    """The member that fills a tensor, through an absorbed clamp; floats where none does."""
    node = value.producer
    if node is not None and node.name not in members and node.inputs and node.inputs[0] is not None:
        before = node.inputs[0].producer
        if before is not None and before.name in members and following_clamp(node.inputs[0]) == node:
            node = before
    return node.name if node is not None and node.name in members else FLOATS


def _follows(node: Node, value: Value, maker: str, layers: Set[str]) -> bool:
    """Whether a node without weights runs on integers only where `maker` does, as `find_regions` has it."""
    return maker != FLOATS and node.op != "Concat" and all(r.name not in layers for r in value.consumers)


def _edge(flow: "nx.DiGraph[str]", maker: str, reader: str, value: Value, costs: CostModel) -> None:
    elements = _elements(value)
    price = costs.quantize_ns(elements) if elements is not None else FREE_NS
    if maker == FLOATS:
        _add(flow, reader, FLOATS, price)
    else:
        _add(flow, maker, reader, price)
        _add(flow, reader, maker, price)


def _behind_pool(
    flow: "nx.DiGraph[str]", node: Node, value: Value, members: dict[str, Node], costs: CostModel
) -> None:
    """A MaxPool on integers that come from floats is dear, and so are integers right after a float MaxPool.

    The runtime moves QuantizeLinear before the pool.
    """
    if node.op == "MaxPool":
        elements, maker = _elements(value), _maker(value, members)
    else:
        pool = value.producer
        if pool is None or pool.op != "MaxPool" or pool.inputs[0] is None:
            return
        elements, maker = _elements(pool.inputs[0]), pool.name if pool.name in members else FLOATS
    if elements is not None:
        _add(flow, node.name, maker, costs.pool_ns(elements))


def _outside(
    flow: "nx.DiGraph[str]",
    name: str,
    value: Value,
    members: dict[str, Node],
    regions: Regions,
    costs: CostModel,
) -> None:
    """A tensor that somebody outside reads as floats costs a DequantizeLinear, unless the layer gives floats anyway."""
    clamp = following_clamp(value)
    out = (
        clamp.outputs[0]
        if clamp is not None and clamp.name in regions.elementwise and clamp.name not in members
        else value
    )
    if out is None or out.name not in regions.tensors:
        return
    if out.is_output or any(r.name not in members for r in out.consumers):
        elements = _elements(out)
        _add(flow, name, FLOATS, costs.quantize_ns(elements) if elements is not None else FREE_NS)


def _add(flow: "nx.DiGraph[str]", a: str, b: str, price: float) -> None:
    if flow.has_edge(a, b):
        if "capacity" in flow[a][b]:
            flow[a][b]["capacity"] += price
    else:
        flow.add_edge(a, b, capacity=price)


def _elements(value: Value) -> int | None:
    total = 1
    for i, d in enumerate(value.shape or (None,)):
        if not isinstance(d, int):
            if i > 0 or d is None:
                return None
            d = 1
        total *= d
    return total
