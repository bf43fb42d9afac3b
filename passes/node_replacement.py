"""Take nodes out of a graph or put others in their place; the names that a reader knows stay."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import output_at


def is_named_outside(value: Value) -> bool:
    """Whether the caller or a control-flow body reads the tensor by its name."""
    return value.is_output or value.used_in_subgraph


def bypass_obstacle(node: Node, source: Value | None = None) -> str | None:
    """Why `source`, by default the node's first input, cannot stand for its first output; None where it can."""
    source = source or node.inputs[0]
    if source is None:
        return "it has no input"
    if is_named_outside(output_at(node)) and (source.producer is None or is_named_outside(source)):
        return "both its input and its result are known outside by name"
    return None


def put_instead(
    graph: LpGraph, old: Node, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any] | None = None
) -> Node:
    """Put one new node in the place of another of one output; names and metadata go over to it."""
    result = output_at(old)
    name, metadata = old.name, dict(old.metadata)
    if not result.used_in_subgraph:
        graph.remove(old)
        return graph.add_node(op, inputs, [result.name], name=name, attrs=attrs, metadata=metadata)
    new = graph.add_node(op, inputs, name=name, attrs=attrs, before=old, metadata=metadata)
    graph.set_type(output_at(new), result.dtype, result.shape)
    graph.replace(old, [new])
    return new


def part(
    graph: LpGraph,
    node: Node,
    op: str,
    inputs: Sequence[Value | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    kind: np.dtype | None = None,
    like: Value | None = None,
) -> Value:
    """The output of a new node that computes a part of another one and stands before it.

    Args:
        graph: of both.
        node: whose name and metadata it takes over.
        op: operator type.
        inputs: tensors it reads.
        attrs: attributes.
        kind: element type; None: that of the node's output, or of its own first input.
        like: a tensor of its shape, where that is known.
    """
    made = graph.add_node(
        op, inputs, name=f"{node.name}/{op}", attrs=attrs, before=node, metadata=dict(node.metadata)
    )
    first = inputs[0]
    kind = kind or output_at(node).dtype or (None if first is None else first.dtype)
    graph.set_type(output_at(made), kind, None if like is None else like.shape)
    return output_at(made)


def remove_dead(graph: LpGraph) -> None:
    """Remove nodes whose results nobody reads."""
    for node in reversed(graph.nodes()):
        results = [value for value in node.outputs if value is not None]
        if not any(is_named_outside(value) or value.consumers for value in results):
            graph.remove(node)
