"""A graph as networkx sees it."""

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
