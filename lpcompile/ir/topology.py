"""A graph as networkx sees it: order, levels, live ranges."""

from dataclasses import dataclass

import networkx as nx

from lpcompile.ir.graph import LpGraph


def digraph(graph: LpGraph) -> "nx.DiGraph[str]":
    """Node names with an edge from producer to reader; edge attribute "tensors" lists what flows.

    Bodies count: what one reads from outside is an edge into the node that holds it.
    """
    store = graph._store
    view: nx.DiGraph[str] = nx.DiGraph()
    for node in store.order():
        view.add_node(node.name, op=node.op, domain=node.domain)
        captured = [store.tensors[n] for n in node.captured if n in store.tensors]
        for tensor in (*node.inputs, *captured):
            for producer in tensor.inputs:
                tensors = view.get_edge_data(producer.name, node.name, {"tensors": ()})["tensors"]
                if tensor.name not in tensors:
                    view.add_edge(producer.name, node.name, tensors=(*tensors, tensor.name))
    return view


def levels(graph: LpGraph) -> dict[str, int]:
    """Longest distance of every node from the inputs; nodes of one level do not depend on each other."""
    view = digraph(graph)
    found: dict[str, int] = {}
    for name in view:  # inserted in execution order
        found[name] = 1 + max((found[p] for p in view.predecessors(name)), default=-1)
    return found


@dataclass(frozen=True, slots=True)
class LiveRange:
    """When a tensor must be kept: steps of the execution order, both ends counted.

    Attributes:
        first: step that fills it; -1 for graph inputs.
        last: last step that reads it; the number of nodes for graph outputs.
    """

    first: int
    last: int


def live_ranges(graph: LpGraph) -> dict[str, LiveRange]:
    """Live range of every tensor that is no constant, by name, in order of their first step."""
    store = graph._store
    order = store.order()
    first = {t.name: -1 for t in store.inputs}
    last = dict(first)
    for step, node in enumerate(order):
        reads = [*(t.name for t in node.inputs), *node.captured]
        last.update((name, step) for name in reads if name in first)
        fills = [t.name for t in node.outputs if not t.is_empty()]
        first.update((name, step) for name in fills)
        last.update((name, step) for name in fills)
    last.update((t.name, len(order)) for t in store.outputs if t.name in first)
    return {name: LiveRange(step, last[name]) for name, step in first.items()}
