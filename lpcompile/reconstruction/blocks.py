"""Parts of a float graph whose layers are reconstructed together: cut where every path goes through one tensor.

Residual and transformer blocks come out whole, for their branches meet again only at the sum; chains are cut anywhere,
so their layers are joined to small groups. A part that stays large is cut where two tensors cross. [li2021, sec. 3]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx

from lpcompile.ir.bodies import captured_names
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

JOINED = 3  # layers of a chain, or of a small part and its neighbour
LARGE = 8  # layers above which two tensors may cross a cut
_CROSSING = 2
_SHAPE_OPS = ("Shape", "Size")
_START, _END = "start", "end"
# What follows a layer and belongs to it: one number in, one out, or nearly so.
_FOLLOWING = frozenset({
    "Add", "BatchNormalization", "Clip", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Mish", "Mul", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Tanh",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a graph.

    Attributes:
        nodes: names, in execution order.
        layers: those of them that have weights.
        inputs: tensors made by layers before it.
        side: other tensors that it reads: inputs of the graph, and what is made of them without a layer.
        outputs: float tensors that somebody after it reads.
    """

    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    side: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its first and its last layer."""
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} .. {self.layers[-1]}"


@dataclass
class _Group:
    """Nodes that become a block."""

    nodes: list[Node] = field(default_factory=list)
    layers: int = 0
    chain: bool = True  # of single layers, so that more may join

    def take(self, nodes: Sequence[Node], layers: int) -> None:
        self.nodes += nodes
        self.layers += layers
        self.chain = self.chain and layers <= 1


def find_blocks(graph: LpGraph, *, joined: int = JOINED, large: int = LARGE) -> list[Block]:
    """The blocks of a graph in execution order; nodes before the first and after the last layer are in none.

    Args:
        graph: with types inferred.
        joined: the most layers of blocks that are joined of smaller parts.
        large: blocks of more layers are cut where two tensors cross, where such a place exists.
    """
    flow = _Flow(graph)
    groups = _joined(_grouped(flow, joined, large), joined)
    return [_bounded(flow, group.nodes) for group in groups if group.layers]


class _Flow:
    """What depends on layers, and how it flows from the first of them to the outputs."""

    def __init__(self, graph: LpGraph) -> None:
        self.graph = graph
        self.layers = {n.name for n in graph.layers()}
        self.readers: dict[str, set[str]] = {}  # tensor -> names of nodes, whose bodies may read it
        view: nx.DiGraph[str] = nx.DiGraph()
        tensors: set[str] = set()
        dependent: dict[str, Node] = {}
        for node in graph.nodes():
            for t in reads(node):
                self.readers.setdefault(t, set()).add(node.name)
            read = [] if node.op in _SHAPE_OPS else [t for t in reads(node) if t in tensors]
            if not read and node.name not in self.layers:
                continue
            dependent[node.name] = node
            made = [o for o in node.outputs if o is not None]
            tensors |= {o.name for o in made}
            view.add_edges_from((f"t {t}", f"n {node.name}") for t in read)
            view.add_edges_from((f"n {node.name}", f"t {o.name}") for o in made)
            view.add_edges_from((f"t {o.name}", _END) for o in made if o.is_output)
            if not read:
                view.add_edge(_START, f"n {node.name}")
        alive = nx.ancestors(view, _END) if _END in view else set()
        self.nodes = [n for name, n in dependent.items() if f"n {name}" in alive]
        self.tensors = {o.name for n in self.nodes for o in n.outputs if o is not None}
        self.cuts = self._cuts(view.subgraph([*alive, _END])) if self.nodes else []

    def _cuts(self, view: "nx.DiGraph[str]") -> list[str]:
        """Float tensors that every path from a layer to an output passes, in order."""
        above, at, found = nx.immediate_dominators(view, _START), _END, []
        while at != _START:
            at = above[at]
            if at.startswith("t ") and self.is_boundary(self.graph.value(at[2:])):
                found.append(at[2:])
        return found[::-1]

    def is_boundary(self, value: Value) -> bool:
        """Whether blocks may end at a tensor."""
        return value.dtype is not None and is_float(value.dtype) and not value.used_in_subgraph

    def parts(self) -> list[list[Node]]:
        """Nodes between neighbouring cuts."""
        place = {t: i + 1 for i, t in enumerate(self.cuts)}
        after: dict[str, int] = {}  # tensor -> how many cuts come before or at it
        found: list[list[Node]] = [[] for _ in range(len(self.cuts) + 1)]
        for node in self.nodes:
            i = max((after[t] for t in reads(node) if t in after), default=0)
            found[i].append(node)
            after |= {o.name: place.get(o.name, i) for o in node.outputs if o is not None}
        return [part for part in found if part]

    def count(self, nodes: Sequence[Node]) -> int:
        """Layers among nodes."""
        return sum(n.name in self.layers for n in nodes)

    def read_after(self, value: Value, inside: set[str]) -> bool:
        """Whether somebody outside a set of nodes reads a tensor."""
        return value.is_output or bool(self.readers.get(value.name, set()) - inside)


def reads(node: Node) -> list[str]:
    """Tensors that a node reads, its bodies included; constants too."""
    found = [name for name in node.input_names if name]
    return found + [name for body in node.subgraphs for name in captured_names(body.proto)]


def _grouped(flow: _Flow, joined: int, large: int) -> list[_Group]:
    groups: list[_Group] = []
    waiting: list[Node] = []  # what comes before the layer that it belongs to
    for part in flow.parts():
        for piece in _pieces(flow, part, large):
            layers = flow.count(piece)
            if not layers:
                follows = bool(groups) and not waiting and all(n.op in _FOLLOWING for n in piece)
                (groups[-1].nodes if follows else waiting).extend(piece)
                continue
            last = groups[-1] if groups else None
            if last is None or not last.chain or layers > 1 or last.layers + layers > joined:
                last = _Group()
                groups.append(last)
            last.take([*waiting, *piece], layers)
            waiting = []
    return groups


def _pieces(flow: _Flow, part: list[Node], large: int) -> Iterator[list[Node]]:
    """The part itself, or shorter ones where it has many layers and few tensors cross between them."""
    if flow.count(part) <= large:
        yield part
        return
    inside, piece = {n.name for n in part}, list[Node]()
    made = {o.name for n in part for o in n.outputs if o is not None}
    outer = {t for n in part for t in reads(n) if t in flow.tensors} - made
    live = {t: flow.readers[t] & inside for t in outer}
    for node in part:
        piece.append(node)
        for name in [t for t, readers in live.items() if node.name in readers]:
            live[name].discard(node.name)
            if not live[name]:
                del live[name]
        for o in node.outputs:
            if o is not None:
                readers = flow.readers.get(o.name, set()) & inside
                if readers or flow.read_after(o, inside):
                    live[o.name] = readers or {_END}
        few = len(live) <= _CROSSING and all(flow.is_boundary(flow.graph.value(t)) for t in live)
        if few and 2 * flow.count(piece) >= large:
            yield piece
            piece = []
    if piece:
        yield piece


def _joined(groups: list[_Group], joined: int) -> list[_Group]:
    """Single layers go to the smaller one of their neighbours, while that stays small."""
    found: list[_Group] = []
    for group in groups:
        if found and 1 in (group.layers, found[-1].layers) and found[-1].layers + group.layers <= joined:
            found[-1].take(group.nodes, group.layers)
        else:
            found.append(group)
    return found


def _bounded(flow: _Flow, nodes: list[Node]) -> Block:
    inside = {n.name: n for n in nodes}
    made = {o.name for n in nodes for o in n.outputs if o is not None}
    inputs: dict[str, None] = {}
    side: dict[str, None] = {}
    for node in nodes:
        for name in reads(node):
            if name in flow.tensors and name not in made:
                inputs[name] = None
    for node in nodes:
        for name in reads(node):
            if name in made or name in inputs:
                continue
            taken = _taken_in(flow.graph.value(name), made, inputs)
            if taken is None:
                side[name] = None
            else:
                inside |= {n.name: n for n in taken}
    order = [n for n in flow.graph.nodes() if n.name in inside]
    found = [
        o
        for n in nodes
        for o in n.outputs
        if o is not None and o.name in flow.tensors and flow.read_after(o, set(inside))
    ]
    floats = [
        o for o in found if o.dtype is None or is_float(o.dtype)
    ]  # masks and indices cannot be compared
    return Block(
        tuple(n.name for n in order),
        tuple(n.name for n in order if n.name in flow.layers),
        tuple(inputs),
        tuple(side),
        tuple(o.name for o in floats or found),
    )


def _taken_in(value: Value, made: set[str], inputs: dict[str, None]) -> list[Node] | None:
    """Nodes that make a tensor of nothing but shapes of a block's own tensors and constants; None: it needs others."""
    if value.is_constant or value.name in made or value.name in inputs:
        return []
    node = value.producer
    if node is None:
        return None
    found = [node]
    for name in reads(node):
        if name not in value._graph:
            return None
        inner = _taken_in(value._graph.value(name), made, inputs)
        if inner is None:
            return None
        found = [*inner, *found]
    return found
