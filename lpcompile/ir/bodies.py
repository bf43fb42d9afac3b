"""Control-flow bodies (If, Loop, Scan): visited, never edited.

A body may read tensors of the graphs around it by name. Those names are fixed: the graph counts
them as used and neither renames, retypes nor removes what they name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto


@dataclass(frozen=True, eq=False)
class Body:
    """One control-flow body, the value of a graph attribute.

    Attributes:
        attribute: name of the attribute that holds it, for example "then_branch".
        proto: the body itself; do not edit it.
    """

    attribute: str
    proto: GraphProto

    def nodes(self) -> "Iterator[BodyNode]":
        """Its nodes in execution order, those of nested bodies after the node that holds them."""
        for proto in self.proto.node:
            yield (node := BodyNode(proto))
            for body in node.subgraphs:
                yield from body.nodes()

    def __repr__(self) -> str:
        return f"<body {self.attribute} of {len(self.proto.node)} nodes>"


@dataclass(frozen=True, eq=False)
class BodyNode:
    """A node inside a body, read only; tensors are given by name."""

    proto: NodeProto

    @property
    def name(self) -> str:
        """Name of the node, perhaps empty."""
        return self.proto.name

    @property
    def op(self) -> str:
        """Operator type."""
        return self.proto.op_type

    @property
    def domain(self) -> str:
        """Operator domain, "" for ai.onnx."""
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, "" where one is omitted."""
        return list(self.proto.input)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, "" where one is omitted."""
        return list(self.proto.output)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes as Python values."""
        from lpcompile.ir.attributes import decode  # attributes hold bodies: the two modules need each other

        return {a.name: decode(a) for a in self.proto.attribute}

    @property
    def subgraphs(self) -> list[Body]:
        """Bodies nested in this node."""
        return bodies_of(self.proto)


def bodies_of(node: NodeProto) -> list[Body]:
    """The control-flow bodies of a node proto."""
    found = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append(Body(attribute.name, attribute.g))
        elif attribute.type == AttributeProto.GRAPHS:
            found.extend(Body(attribute.name, g) for g in attribute.graphs)
    return found


def captured_names(body: GraphProto) -> list[str]:
    """Names that a body reads from the graphs around it, in order of first use."""
    local = {t.name for t in body.initializer} | {t.values.name for t in body.sparse_initializer}
    local |= {i.name for i in body.input}
    captured: dict[str, None] = {}
    for node in body.node:
        names = [*node.input, *(n for inner in bodies_of(node) for n in captured_names(inner.proto))]
        captured.update((name, None) for name in names if name and name not in local)
        local.update(node.output)
    captured.update((o.name, None) for o in body.output if o.name and o.name not in local)
    return list(captured)


def renamed(body: GraphProto, names: Mapping[str, str]) -> GraphProto:
    """A copy that reads other names from the graphs around it.

    Args:
        body: it stays as it is.
        names: old -> new, of what it captures; a name that it defines itself is its own.
    """
    made = GraphProto()
    made.CopyFrom(body)
    own = set(local_names(body))
    _rename(made, {old: new for old, new in names.items() if old not in own})
    return made


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    for node in body.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for inner in bodies_of(node):
            _rename(inner.proto, names)
    for output in body.output:
        output.name = names.get(output.name, output.name)


def local_names(body: GraphProto) -> Iterator[str]:
    """Every name that a body or a body inside it defines; outer tensors must not take them."""
    yield from (t.name for t in body.initializer)
    yield from (i.name for i in body.input)
    for node in body.node:
        yield from node.output
        for inner in bodies_of(node):
            yield from local_names(inner.proto)
