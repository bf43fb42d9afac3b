"""Sums of many tensors, however they are spelled: nested Add and Sum as one list of operands."""

from collections.abc import Iterator, Set
from dataclasses import dataclass

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import output_at

SUMS = ("Add", "Sum")


@dataclass(frozen=True, slots=True)
class SumTree:
    """One sum.

    Attributes:
        nodes: the Add or Sum that gives the result, then those whose results it alone reads, each after its reader.
        operands: (node, its input) of every tensor that is summed and no result of one of the nodes.
        terms: these tensors.
    """

    nodes: list[Node]
    operands: list[tuple[Node, int]]
    terms: list[Value]

    def without(self, graph: LpGraph, dropped: Set[int]) -> None:
        """Take operands out, by number; at least one must stay."""
        out = {(n.name, i) for k, (n, i) in enumerate(self.operands) if k in dropped}
        inner = {output_at(n): n for n in self.nodes[1:]}
        stands: dict[str, Value | None] = {}  # for the result of a node
        for node in reversed(self.nodes):
            read = node.inputs
            kept = [
                stands[inner[v].name] if v in inner else v
                for i, v in enumerate(read)
                if v is not None and (node.name, i) not in out
            ]
            left = [v for v in kept if v is not None]
            stands[node.name] = output_at(node) if len(left) > 1 else left[0] if left else None
            if len(left) > 1 and left != read:
                for i in range(len(read)):
                    node.set_input(i, left[i] if i < len(left) else None)
        root = self.nodes[0]
        stand_in = stands[root.name]
        if stand_in is None:
            raise ValueError("a sum of nothing")
        if stand_in != output_at(root):
            graph.replace_uses(output_at(root), stand_in)
            graph.remove(root)


def sum_trees(graph: LpGraph) -> Iterator[SumTree]:
    """The sums of a graph, largest ones whole."""
    inner: set[str] = set()
    for node in reversed(graph.nodes(*SUMS)):
        if node.name not in inner:
            tree = _tree(graph, node)
            inner.update(n.name for n in tree.nodes)
            yield tree


def _tree(graph: LpGraph, root: Node) -> SumTree:
    """Operands stand as they are written, left to right."""
    found = SumTree([root], [], [])
    waiting = [(root, i) for i in reversed(range(len(root.inputs)))]
    while waiting:
        node, i = waiting.pop()
        value = node.inputs[i]
        below = graph.sole_producer(value, *SUMS)
        if below is not None and not below.attrs.get("broadcast", 0):  # of opset 6, by an axis of its own
            found.nodes.append(below)
            waiting += [(below, k) for k in reversed(range(len(below.inputs)))]
        elif value is not None:
            found.operands.append((node, i))
            found.terms.append(value)
    return found
