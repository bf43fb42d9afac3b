"""What a graph is made of: graphsurgeon nodes and tensors with their edges, names, order and liveness.

The only module that touches graphsurgeon's nodes. It keeps beside them what graphsurgeon 0.6 drops or
cannot export (metadata, types other than tensors, packed constants), and everything is found by name.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import ValueInfoProto
from onnx_graphsurgeon.ir.node import Node as SurgeonNode
from onnx_graphsurgeon.ir.tensor import Constant as SurgeonConstant
from onnx_graphsurgeon.ir.tensor import Tensor as SurgeonTensor
from onnx_graphsurgeon.ir.tensor import Variable as SurgeonVariable

from lpcompile.errors import PassError
from lpcompile.ir.attributes import Attributes
from lpcompile.ir.bodies import captured_names, local_names
from lpcompile.ir.weights import Weights

Shape = tuple[int | str | None, ...]


class StoredNode(SurgeonNode):  # type: ignore[misc]
    """A graphsurgeon node with what graphsurgeon drops."""

    def __init__(
        self,
        op: str,
        name: str,
        domain: str,
        attrs: Attributes,
        inputs: list[SurgeonTensor],
        outputs: list[SurgeonTensor],
    ) -> None:
        super().__init__(op, name, attrs, inputs, outputs, domain)
        self.metadata: dict[str, str] = {}
        self.doc_string = ""
        self.overload = ""
        self.captured: tuple[str, ...] = ()


class StoredVariable(SurgeonVariable):  # type: ignore[misc]
    """A graphsurgeon variable with the value info it was loaded with, None once its type was changed."""

    def __init__(
        self,
        name: str,
        dtype: np.dtype | None = None,
        shape: Shape | None = None,
        info: ValueInfoProto | None = None,
    ) -> None:
        super().__init__(name, dtype, shape)
        self.info = info


def is_constant(tensor: SurgeonTensor) -> bool:
    """Whether a stored tensor is an initialiser."""
    return isinstance(tensor, SurgeonConstant)


def weights_of(tensor: SurgeonTensor) -> Weights:
    """The data behind a constant."""
    data: Weights = tensor._values
    return data


class Store:
    """Nodes and tensors of one graph.

    Attributes:
        nodes: by name; the order of the dict is the order of insertion, `order()` that of execution.
        tensors: by name, without the empty ones that stand for omitted inputs.
        captured: how many nodes with bodies read a name from inside.
        body_names: names defined inside bodies, which the graph must not take.
        discarded_bytes: of the constants that were forgotten; their cycles hold them for a while.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, StoredNode] = {}
        self.tensors: dict[str, SurgeonTensor] = {}
        self.inputs: list[SurgeonTensor] = []
        self.outputs: list[SurgeonTensor] = []
        self.captured: Counter[str] = Counter()
        self.body_names: set[str] = set()
        self.discarded_bytes = 0
        self._next_suffix: dict[str, int] = {}
        self._order: list[StoredNode] | None = None
        self._positions: dict[int, int] = {}

    # names

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2` ... if a tensor has that name."""
        return self._free(stem, "t", lambda name: name in self.tensors or name in self.body_names)

    def fresh_node_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2` ... if a node has that name."""
        return self._free(stem, "n", lambda name: name in self.nodes)

    def _free(self, stem: str, kind: str, taken: Callable[[str], bool]) -> str:
        if not taken(stem):
            return stem
        number = self._next_suffix.get(kind + stem, 1)
        while taken(f"{stem}_{number}"):
            number += 1
        self._next_suffix[kind + stem] = number + 1
        return f"{stem}_{number}"

    # tensors

    def add_variable(
        self,
        name: str,
        dtype: np.dtype | None = None,
        shape: Shape | None = None,
        info: ValueInfoProto | None = None,
    ) -> StoredVariable:
        """A new tensor that a node or a caller fills."""
        self._check_new(name)
        tensor = StoredVariable(name, dtype, shape, info)
        self.tensors[name] = tensor
        return tensor

    def add_constant(self, name: str, weights: Weights) -> SurgeonConstant:
        """A new initialiser."""
        self._check_new(name)
        tensor = SurgeonConstant(name, weights)
        self.tensors[name] = tensor
        return tensor

    def refill(self, tensor: SurgeonConstant, weights: Weights) -> None:
        """Give an initialiser other data; the old go at once, which those of a discarded tensor would not."""
        tensor._values = weights
        self.tensors[tensor.name] = self.tensors.pop(tensor.name)  # in order of entry, like a new one

    def _check_new(self, name: str) -> None:
        if not name:
            raise PassError("a tensor needs a name")
        if name in self.tensors:
            raise PassError(f"tensor {name!r} exists already")

    def rename(self, tensor: SurgeonTensor, name: str) -> None:
        """Give a tensor another, free name."""
        self._check_new(name)
        del self.tensors[tensor.name]
        tensor.name = name
        self.tensors[name] = tensor
        if isinstance(tensor, StoredVariable):
            tensor.info = None

    def discard(self, tensor: SurgeonTensor) -> None:
        """Forget a tensor that nothing reads or fills any more; one still in use stays."""
        in_use = tensor.inputs or tensor.outputs or self.captured[tensor.name]
        if not in_use and not contains(self.inputs, tensor) and not contains(self.outputs, tensor):
            known = self.tensors.pop(tensor.name, None)
            if known is not None and is_constant(known):
                self.discarded_bytes += weights_of(known).nbytes

    def adopt(self, tensor: SurgeonTensor) -> SurgeonTensor:
        """Enter a tensor again that was forgotten while a view on it was still held."""
        if self.tensors.get(tensor.name) is not tensor:
            tensor.name = self.fresh(tensor.name)
            self.tensors[tensor.name] = tensor
        return tensor

    # nodes

    def add_node(self, node: StoredNode, before: StoredNode | None = None) -> None:
        """Enter a node whose tensors are stored already."""
        bodies = node.attrs.bodies()
        if bodies:
            names = dict.fromkeys(n for body in bodies for n in captured_names(body.proto))
            node.captured = tuple(names)
            self.captured.update(node.captured)
            self.body_names.update(n for body in bodies for n in local_names(body.proto))
        if before is None or before.name not in self.nodes:
            self.nodes[node.name] = node
        else:
            entries = list(self.nodes.items())
            at = list(self.nodes).index(before.name)
            self.nodes = dict([*entries[:at], (node.name, node), *entries[at:]])
        self.touch()

    def remove_node(self, node: StoredNode) -> None:
        """Take a node out; its outputs stay for whoever reads them, unused tensors go."""
        tensors = [*node.inputs, *node.outputs]
        node.inputs.clear()
        node.outputs.clear()
        self.captured.subtract(node.captured)
        del self.nodes[node.name]
        for tensor in tensors:
            if not tensor.is_empty():
                self.discard(tensor)
        if self._order is not None:  # taking a node out keeps an order valid
            self._order = [n for n in self._order if n is not node]

    def set_aside(self, node: StoredNode) -> None:
        """Free the name of a node: a twin under another name takes its place, and the node has no edges left."""
        inputs, outputs = list(node.inputs), list(node.outputs)
        node.inputs.clear()
        node.outputs.clear()
        name = self.fresh_node_name(f"{node.name}/aside")
        twin = StoredNode(node.op, name, node.domain, node.attrs, inputs, outputs)
        twin.metadata, twin.doc_string = node.metadata, node.doc_string
        twin.overload, twin.captured = node.overload, node.captured
        del self.nodes[node.name]
        self.nodes[name] = twin
        self.touch()

    def touch(self) -> None:
        """Edges changed: the order of execution is to be found again."""
        self._order = None

    # order

    def order(self) -> list[StoredNode]:
        """Nodes in execution order: as inserted, each producer pulled before its first reader.

        Raises:
            PassError: the graph has a cycle; `where` names a node on it.
        """
        if self._order is None:
            self._order = self._sorted(self.nodes.values())
            self._positions = {id(node): i for i, node in enumerate(self._order)}
        return self._order

    def position(self, node: StoredNode) -> int:
        """Index that grows along the execution order."""
        self.order()
        return self._positions[id(node)]

    def producers(self, node: StoredNode) -> Iterable[StoredNode]:
        """Nodes whose outputs a node reads, also from inside its bodies."""
        for tensor in node.inputs:
            yield from tensor.inputs
        for name in node.captured:
            if name in self.tensors:
                yield from self.tensors[name].inputs

    def _sorted(self, roots: Iterable[StoredNode]) -> list[StoredNode]:
        done: set[int] = set()
        open_: set[int] = set()
        order: list[StoredNode] = []
        for root in roots:
            stack = [] if id(root) in done else [(root, iter(self.producers(root)))]
            open_.update(id(node) for node, _ in stack)
            while stack:
                node, waiting = stack[-1]
                producer = next(waiting, None)
                if producer is None:
                    stack.pop()
                    open_.discard(id(node))
                    done.add(id(node))
                    order.append(node)
                elif id(producer) in open_:
                    raise PassError(
                        f"the graph has a cycle through node {producer.name!r}", where=producer.name
                    )
                elif id(producer) not in done:
                    open_.add(id(producer))
                    stack.append((producer, iter(self.producers(producer))))
        return order

    def live(self, outputs: Iterable[SurgeonTensor] | None = None) -> list[StoredNode]:
        """Nodes that some graph output, or else one of `outputs`, depends on, in execution order."""
        ends = self.outputs if outputs is None else outputs
        wanted = {id(node) for tensor in ends for node in tensor.inputs}
        found = []
        for node in reversed(self.order()):
            if id(node) in wanted:
                found.append(node)
                wanted.update(id(p) for p in self.producers(node))
        return found[::-1]

    def clone(self) -> "Store":
        """A store of its own over the same weights."""
        other = Store()
        for name, tensor in self.tensors.items():
            if is_constant(tensor):
                other.tensors[name] = SurgeonConstant(name, weights_of(tensor))
            else:
                other.tensors[name] = StoredVariable(name, tensor.dtype, tensor.shape, tensor.info)
        for node in self.nodes.values():
            twin = StoredNode(
                node.op,
                node.name,
                node.domain,
                node.attrs.copy(),
                other._twins(node.inputs),
                other._twins(node.outputs),
            )
            twin.metadata = dict(node.metadata)
            twin.doc_string, twin.overload, twin.captured = node.doc_string, node.overload, node.captured
            other.nodes[node.name] = twin
        other.inputs = other._twins(self.inputs)
        other.outputs = other._twins(self.outputs)
        other.captured = Counter(self.captured)
        other.body_names = set(self.body_names)
        other._next_suffix = dict(self._next_suffix)
        return other

    def _twins(self, tensors: Sequence[SurgeonTensor]) -> list[SurgeonTensor]:
        return [SurgeonVariable.empty() if t.is_empty() else self.tensors[t.name] for t in tensors]


def contains(tensors: Sequence[SurgeonTensor], tensor: SurgeonTensor) -> bool:
    """Whether a list holds this very tensor; `in` would compare names."""
    return any(t is tensor for t in tensors)
