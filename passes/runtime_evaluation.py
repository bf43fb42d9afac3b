"""The value of constant parts of a graph by running them, one small model for each connected part."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.pipeline import RunModel

Array = NDArray[Any]


def connected_parts(nodes: Sequence[Node]) -> list[list[Node]]:
    """Nodes grouped so that no result of one group is read by another; order is kept."""
    links = nx.Graph()
    links.add_nodes_from(nodes)
    chosen = set(nodes)
    for node in nodes:
        producers = (value.producer for value in node.inputs if value is not None)
        links.add_edges_from((p, node) for p in producers if p is not None and p in chosen)
    position = {node: i for i, node in enumerate(nodes)}
    return [sorted(part, key=position.__getitem__) for part in nx.connected_components(links)]


def evaluate_part(
    graph: LpGraph, nodes: Sequence[Node], wanted: Sequence[Value], run: RunModel
) -> dict[str, Array]:
    """Values of the `wanted` outputs of `nodes`, by name.

    Args:
        graph: the graph they stand in.
        nodes: in execution order; what they read is a constant or filled by one of them.
        wanted: outputs of these nodes.
        run: runs a model.
    """
    part = LpGraph()
    part.ir_version = graph.ir_version
    part.opset_imports = {"": graph.opset}
    feeds: dict[str, Array] = {}
    twins: dict[Value, Value] = {}
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.is_constant and value not in twins:
                array = value.values
                twins[value] = part.add_input(value.name, array.dtype, array.shape)
                feeds[value.name] = array
        inputs = [None if v is None else twins[v] for v in node.inputs]
        twin = part.add_node(node.op, inputs, node.output_names, name=node.name, attrs=dict(node.attrs))
        for value, copy in zip(node.outputs, twin.outputs, strict=True):
            if value is not None and copy is not None:
                part.set_type(copy, value.dtype, value.shape)
                twins[value] = copy
    for value in wanted:
        part.add_output(twins[value])
    return run(part.to_proto(), feeds)
