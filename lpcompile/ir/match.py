"""Small matchers for passes: each finds a place in a graph, or says in words why there is none.

A reason is what `PassReport.skip` shows to the user.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@dataclass(frozen=True, slots=True)
class Match:
    """What a matcher found.

    Attributes:
        nodes: the nodes, in the order of the pattern; empty if there is no match.
        reason: why there is none; empty if there is one.
    """

    nodes: tuple[Node, ...] = ()
    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


def sole_producer(value: Value | None, *ops: str) -> Match:
    """The node with one of these types that fills `value`, if exactly one node and nobody else reads it."""
    wanted = " or ".join(ops) or "node"
    if value is None:
        return Match(reason="the input is omitted")
    if value.is_constant:
        return Match(reason=f"{value.name!r} is a constant, not the result of a {wanted}")
    node = value.producer
    if node is None:
        return Match(reason=f"{value.name!r} is a graph input, not the result of a {wanted}")
    if node.domain or (ops and node.op not in ops):
        return Match(reason=f"{value.name!r} comes from {node.op}, not from {wanted}")
    if value.is_output:
        return Match(reason=f"{value.name!r} is also a graph output")
    if value.used_in_subgraph:
        return Match(reason=f"a control-flow body reads {value.name!r}")
    if len(value.consumers) != 1:
        return Match(reason=f"{len(value.consumers)} nodes read {value.name!r}")
    return Match((node,))


def sole_consumer(value: Value | None, *ops: str) -> Match:
    """The node with one of these types that reads `value`, if nobody else does."""
    wanted = " or ".join(ops) or "node"
    if value is None:
        return Match(reason="the output is not wanted")
    if value.is_output:
        return Match(reason=f"{value.name!r} is also a graph output")
    if value.used_in_subgraph:
        return Match(reason=f"a control-flow body reads {value.name!r}")
    consumers = value.consumers
    if len(consumers) != 1:
        return Match(reason=f"{len(consumers)} nodes read {value.name!r}")
    node = consumers[0]
    if node.domain or (ops and node.op not in ops):
        return Match(reason=f"{value.name!r} goes to {node.op}, not to {wanted}")
    return Match((node,))


def chain(start: Node, *ops: str | tuple[str, ...]) -> Match:
    """`start` and the nodes after it, each the only reader of the first output of the one before.

    Args:
        start: first node; its own type is the caller's matter.
        ops: the type, or the types, of each node that follows.
    """
    nodes = [start]
    for wanted in ops:
        outputs = nodes[-1].outputs
        step = sole_consumer(
            outputs[0] if outputs else None, *((wanted,) if isinstance(wanted, str) else wanted)
        )
        if not step:
            return step
        nodes.append(step.nodes[0])
    return Match(tuple(nodes))


def all_constant(values: Sequence[Value | None]) -> Match:
    """A match without nodes if every value that is given is a constant."""
    for value in values:
        if value is not None and not value.is_constant:
            return Match(reason=f"{value.name!r} is no constant")
    return Match()
