"""Weights that can be exchanged one layer at a time although a model shares them."""

from collections.abc import Iterable

from lpcompile.ir.graph import LpGraph


def with_own_weights(graph: LpGraph, layers: Iterable[str]) -> LpGraph:
    """The graph itself, or a copy in which each of these layers alone reads its weight.

    Args:
        graph: weights of the copy are those of the graph, not copies of them.
        layers: names of layers with constant weights.
    """
    shared = []
    for name in layers:
        weight = graph.node(name).inputs[1]
        assert weight is not None, "layers have weights"
        if len(weight.consumers) > 1 or weight.is_output or weight.used_in_subgraph:
            shared.append(name)
    if not shared:
        return graph
    copy = graph.copy()
    for name in shared:
        node = copy.node(name)
        weight = node.inputs[1]
        assert weight is not None, "layers have weights"
        node.set_input(1, copy.constant(f"{name}/own_weight", weight.values))
    return copy
