"""Account of a float graph, or of what a plan makes of it.

Nothing is charged for what is known before a call: constants, what is computed from constants or from shapes, nodes
that nobody reads.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from functools import partial

from lpcompile.accounts.bodies import inner_account, renamed
from lpcompile.accounts.entries import Account, Entry, Uncounted
from lpcompile.accounts.functions import ACTIVATIONS
from lpcompile.accounts.nodes import UnknownOperatorError, float_entry, float_layer_entry, has_rule
from lpcompile.accounts.sizes import UnknownSizeError
from lpcompile.errors import LpcompileError
from lpcompile.ir.cones import table_cones
from lpcompile.ir.definitions import definition, is_defined
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

SHAPES_OF = ("Shape", "Size")
NEVER_KNOWN = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def float_account(graph: LpGraph) -> Account:
    """What a call of a float graph costs; a symbolic batch is 1 (see `sizes.settled`).

    Args:
        graph: with shapes; its plan is not looked at.
    """
    count = FloatNodes(graph)
    return counted(Item(n.name, n.op, partial(count.of, n)) for n in working_nodes(graph))


class FloatNodes:
    """Counts nodes of one graph that have no plan."""

    def __init__(self, graph: LpGraph) -> None:
        self.graph = graph
        self.layers = {n.name for n in graph.layers()}
        self.activation = activation_nodes(graph)

    def of(self, node: Node) -> Entry | Account:
        """What a node costs, or what is inside it."""
        if node.name in self.layers:
            return float_layer_entry(node)
        if node.subgraphs:
            return inner_account(self.graph, node, float_account)
        if not has_rule(node) and is_defined(node):
            parts = definition(node, self.graph.opset)
            if parts is None:
                raise UnknownOperatorError(f"this form of operator {node.operator} is not known")
            return renamed(float_account(parts), node, 1)
        return float_entry(node, in_activation=node.name in self.activation)


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be counted.

    Attributes:
        node, op: as in its entry.
        count: gives the entry, or raises what says why there is none.
    """

    node: str
    op: str
    count: Callable[[], Entry | Account]


def counted(items: Iterable[Item]) -> Account:
    """Entries of items; those that cannot be counted stand apart with the reason."""
    entries, uncounted = list[Entry](), list[Uncounted]()
    for item in items:
        try:
            found = item.count()
            inner = found if isinstance(found, Account) else Account((found,))
            entries += inner.entries
            uncounted += inner.uncounted
        except (UnknownSizeError, UnknownOperatorError) as error:
            uncounted.append(Uncounted(item.node, item.op, str(error)))
        except (LpcompileError, LookupError, ValueError) as error:  # an account stops no compilation
            uncounted.append(Uncounted(item.node, item.op, f"it contradicts itself: {error}"))
    return Account(tuple(e for e in entries if e.work or e.bytes), tuple(uncounted))


def _inputs(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def working_nodes(graph: LpGraph, reads: Callable[[Node], list[Value]] = _inputs) -> list[Node]:
    """Nodes that compute something that somebody reads and that is not known before the call, in execution order.

    Args:
        graph: the graph.
        reads: what a node reads.
    """
    known = known_tensors(graph)
    live: set[str] = set()
    found = []
    for node in reversed(graph.nodes()):
        outputs = [v for v in node.outputs if v is not None]
        if not any(v.name in live or v.is_output or v.used_in_subgraph for v in outputs):
            continue
        live |= {v.name for v in reads(node)}
        if any(v.name not in known for v in outputs):
            found.append(node)
    return found[::-1]


def known_tensors(graph: LpGraph) -> set[str]:
    """Tensors that are computed from constants and shapes alone."""
    known: set[str] = set()
    for node in graph.nodes():
        from_known = all(v is None or v.is_constant or v.name in known for v in node.inputs)
        if (from_known and node.op not in NEVER_KNOWN and not node.subgraphs) or node.op in SHAPES_OF:
            known |= {v.name for v in node.outputs if v is not None}
    return known


def activation_nodes(graph: LpGraph) -> Set[str]:
    """Nodes that are part of a function of one tensor with an activation among them, as x * Sigmoid(x)."""
    ops = {n.name: n.op for n in graph.nodes()}
    found: set[str] = set()
    for name, cone in table_cones(graph).items():
        members = {name, *cone.inner}
        if any(ops.get(m) in ACTIVATIONS and ops.get(m) != "Relu" for m in members):
            found |= members
    return found
