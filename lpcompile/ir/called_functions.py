"""Functions of a model that nodes call: directly, from a body, or from another function."""

from collections.abc import Iterable, Iterator

from onnx import FunctionProto, NodeProto

from lpcompile.ir.bodies import bodies_of

Operator = tuple[str, str]  # domain and name


def with_bodies(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of their bodies."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from with_bodies(body.proto.node)


def operators_of(nodes: Iterable[NodeProto]) -> set[Operator]:
    """What nodes and their bodies call."""
    return {("" if n.domain == "ai.onnx" else n.domain, n.op_type) for n in with_bodies(nodes)}


def called_functions(
    operators: Iterable[Operator], functions: Iterable[FunctionProto]
) -> list[FunctionProto]:
    """The functions that are needed to run operators, in their own order."""
    known = {(f.domain, f.name): f for f in functions}
    waiting, used = list(operators), set[Operator]()
    while waiting:
        key = waiting.pop()
        if key in known and key not in used:
            used.add(key)
            waiting.extend(operators_of(known[key].node))
    return [function for key, function in known.items() if key in used]
