"""`LpGraph`: a model as the passes see it, with small verbs that keep it consistent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto
from onnx_graphsurgeon.ir.tensor import Variable

from lpcompile.errors import PassError
from lpcompile.ir import export, importer, opset, shapes
from lpcompile.ir.attributes import Attributes
from lpcompile.ir.bodies import BodyNode
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.facts import Fact
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape, Store, StoredNode, is_constant, weights_of
from lpcompile.ir.value import Value
from lpcompile.ir.weights import Weights
from lpcompile.plan import QuantPlan

_LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class LpGraph:
    """A model: a float graph, the plan beside it, and what is known to hold of both.

    Attributes:
        facts: properties that hold now; passes establish and invalidate them.
        plan: every decision taken so far; a plan pass replaces it.
        metadata: metadata of the model, written out with it.
        notes: what was done to the model on loading or converting that its owner should read.
        opset_imports: domain -> version; "" is ai.onnx.
        functions: (domain, name) -> model-local function, written out where a node uses it.
    """

    def __init__(self) -> None:
        self.facts: set[Fact] = set()
        self.plan: QuantPlan = QuantPlan()
        self.sound_sizes: set[str] = set()  # of inputs, with which no Slice meets a negative axis
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self.ir_version: int = 8
        self.opset_imports: dict[str, int] = {"": 17}
        self.functions: dict[tuple[str, str], FunctionProto] = {}
        self.name = "graph"
        self.doc_string = ""
        self._header = ModelProto()
        self._store = Store()

    # in and out

    @classmethod
    def from_proto(cls, proto: ModelProto, *, base_dir: Path | None = None) -> "LpGraph":
        """Read a model. It is not changed, and its tensors are referred to, so do not edit it afterwards.

        Args:
            proto: the model.
            base_dir: folder that external data must lie in; None where there is none.

        Raises:
            ModelError: the model contradicts itself, or its data are damaged or missing.
        """
        graph = cls()
        importer.fill(graph, proto, base_dir)
        return graph

    def to_proto(self) -> ModelProto:
        """The model in execution order, without dead nodes and initialisers; same graph, same bytes."""
        return export.model_proto(self)

    def copy(self) -> "LpGraph":
        """A graph of its own that shares the weights."""
        other = LpGraph()
        other.facts, other.plan, other.notes = set(self.facts), self.plan, list(self.notes)
        other.sound_sizes = self.sound_sizes
        other.metadata, other.opset_imports = dict(self.metadata), dict(self.opset_imports)
        other.functions, other.ir_version = dict(self.functions), self.ir_version
        other.name, other.doc_string, other._header = self.name, self.doc_string, self._header
        other._store = self._store.clone()
        return other

    # looking

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.opset_imports[""]

    @property
    def inputs(self) -> list[Value]:
        """What the caller feeds."""
        return [self._value(t) for t in self._store.inputs]

    @property
    def outputs(self) -> list[Value]:
        """What the caller reads."""
        return [self._value(t) for t in self._store.outputs]

    def nodes(self, *ops: str) -> list[Node]:
        """Nodes in execution order; with `ops`, those of the default domain with one of these types."""
        order = self._store.order()
        if ops:
            order = [n for n in order if n.op in ops and not n.domain]
        return [Node(self, n) for n in order]

    def ops(self) -> list[str]:
        """Operator types in execution order, those of other domains as "domain::op"."""
        return [f"{n.domain}::{n.op}" if n.domain else n.op for n in self._store.order()]

    def walk(self) -> Iterator[Node | BodyNode]:
        """Every node, each followed by the nodes of its control-flow bodies (these are read only)."""
        for node in self.nodes():
            yield node
            for body in node.subgraphs:
                yield from body.nodes()

    def layers(self) -> list[Node]:
        """Conv, ConvTranspose, Gemm, MatMul with a constant float weight as input 1, in execution order."""
        found = []
        for node in self.nodes(*_LAYER_OPS):
            data, weight = (*node.inputs, None, None)[:2]
            quantisable = weight is not None and weight.is_constant and is_float(weight.dtype)
            if quantisable and data is not None and not data.is_constant:
                found.append(node)
        return found

    def node(self, name: str) -> Node:
        """The node of that name; KeyError if there is none."""
        return Node(self, self._store.nodes[name])

    def value(self, name: str) -> Value:
        """The tensor of that name; KeyError if there is none."""
        return self._value(self._store.tensors[name])

    def __contains__(self, name: str) -> bool:
        return name in self._store.tensors

    def constants(self) -> list[Value]:
        """Initialisers that are in use, in order of their entry."""
        return [self._value(t) for t in self._store.tensors.values() if is_constant(t) and self._in_use(t)]

    def sole_producer(self, t: Value | None, *ops: str, op: str | None = None) -> Node | None:
        """The node with one of these types that fills `t`, if exactly one node and nobody else reads `t`."""
        wanted = (*ops, op) if op is not None else ops
        if t is None or t.is_output or t.used_in_subgraph or len(t._raw.outputs) != 1:
            return None
        node = t.producer
        if node is None or node.domain or (wanted and node.op not in wanted):
            return None
        return node

    def all_constant(self, values: Sequence[Value | None]) -> bool:
        """Whether every value that is given is an initialiser; omitted ones do not matter."""
        return all(v is None or v.is_constant for v in values)

    # editing

    def fresh(self, stem: str) -> str:
        """A tensor name that is free: the stem, or the stem with a number."""
        return self._store.fresh(stem)

    def rename(self, value: Value, stem: str) -> None:
        """Give an inner tensor another name, the stem or the stem with a number.

        Raises:
            PassError: somebody outside the graph knows it by its name.
        """
        if value.is_input or value.is_output or value.used_in_subgraph:
            raise PassError(f"tensor {value.name!r} is read from outside by its name", where=value.name)
        self._store.rename(self._raw(value), self.fresh(stem))

    def constant(self, stem: str, array: NDArray[Any] | np.generic) -> Value:
        """A new initialiser; the array may be of an ml_dtypes type and must not be written to later."""
        return self._value(self._store.add_constant(self.fresh(stem), Weights.of_array(np.asarray(array))))

    def add_input(self, name: str, dtype: np.dtype, shape: Sequence[int | str | None]) -> Value:
        """A new graph input."""
        tensor = self._store.add_variable(name, np.dtype(dtype), tuple(shape))
        self._store.inputs.append(tensor)
        return self._value(tensor)

    def settle_input(self, value: Value, array: NDArray[Any]) -> Value:
        """Let an initialiser of the same name take the place of a graph input."""
        raw = self._raw(value)
        self._store.inputs = [t for t in self._store.inputs if t is not raw]
        del self._store.tensors[value.name]
        constant = self._store.add_constant(value.name, Weights.of_array(array))
        for node in list({id(n): n for n in raw.outputs}.values()):
            for i in [i for i, t in enumerate(node.inputs) if t is raw]:
                node.inputs[i] = constant
        self._store.touch()
        return self._value(constant)

    def add_output(self, value: Value) -> None:
        """Make a tensor a graph output as well."""
        self._store.outputs.append(self._raw(value))

    def add_node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: int | Sequence[str] = 1,
        *,
        name: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        before: Node | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Node:
        """A new node.

        Args:
            op: operator type.
            inputs: tensors it reads; None omits an optional one.
            outputs: how many tensors it fills, or their names ("" for one that is not wanted). A name that
                exists already must be one that no node fills.
            name: node name, made unique; by default the type with a number.
            attrs: attributes.
            domain: operator domain, "" for ai.onnx.
            before: place it before this node in the list; the execution order follows the edges anyway.
            metadata: metadata of the node.
        """
        name = self._store.fresh_node_name(name or op)
        if isinstance(outputs, int):
            outputs = [
                self.fresh(f"{name}/out" if outputs == 1 else f"{name}/out{i}") for i in range(outputs)
            ]
        raw_inputs = [Variable.empty() if v is None else self._raw(v) for v in inputs]
        while raw_inputs and raw_inputs[-1].is_empty():
            raw_inputs.pop()
        raw_outputs = [self._unfilled(o) if o else Variable.empty() for o in outputs]
        node = StoredNode(op, name, domain, Attributes(op, domain), raw_inputs, raw_outputs)
        for key, value in (attrs or {}).items():
            node.attrs[key] = value
        node.metadata.update(metadata or {})
        self.opset_imports.setdefault(domain, 1)
        self._store.add_node(node, None if before is None else before._raw)
        return Node(self, node)

    def remove(self, node: Node) -> None:
        """Take a node out. Readers of its outputs keep reading them: give them something else.

        Raises:
            PassError: a control-flow body reads an output of it.
        """
        for value in node.outputs:
            if value is not None and value.used_in_subgraph:
                raise PassError(f"a control-flow body reads {value.name!r}", where=node.name)
        self._store.remove_node(node._raw)

    def set_aside(self, node: Node) -> None:
        """Take a node out, and let a twin under another name fill its outputs until something else does."""
        self._store.set_aside(node._raw)

    def replace_uses(self, old: Value, new: Value, *, only: Callable[[Node], bool] | None = None) -> None:
        """Make the consumers of `old` read `new`.

        A graph output, or a tensor that a control-flow body reads, keeps its name and is filled from `new`
        from now on: `new` takes the name over, or an Identity copies it where `new` must keep its own.
        With `only`, just the consumers for which it holds change, and outputs stay with `old`.
        """
        old_raw, new_raw = self._raw(old), self._raw(new)
        if old_raw is new_raw:
            return
        if only is None and old.is_input and (old.is_output or old.used_in_subgraph):
            raise PassError(f"graph input {old.name!r} is read from outside by its name", where=old.name)
        for node in list({id(n): n for n in old_raw.outputs}.values()):
            if only is None or only(Node(self, node)):
                for i in [i for i, t in enumerate(node.inputs) if t is old_raw]:
                    node.inputs[i] = new_raw
        self._store.touch()
        if only is None and (old.is_output or old.used_in_subgraph):
            self._take_over(old, new)
        else:
            self._store.discard(old_raw)

    def bypass(self, node: Node, source: Value | None = None) -> None:
        """Replace a node's first output by `source`, by default its first input, and take the node out."""
        source, target = source or node.inputs[0], node.outputs[0]
        if source is None or target is None:
            raise PassError("a node without first input or output cannot be bypassed", where=node.name)
        self.replace_uses(target, source)
        self.remove(node)

    def replace(self, old: Node, new: Sequence[Node]) -> None:
        """Let the outputs of the last node of `new` stand for those of `old`, and take `old` out."""
        for was, now in zip(old.outputs, new[-1].outputs, strict=False):
            if was is not None and now is not None:
                self.replace_uses(was, now)
        self.remove(old)

    def set_weights(self, node: Node, w: NDArray[Any], b: NDArray[Any] | None) -> None:
        """Give a layer new weights, and a bias unless None; nodes that share the old ones keep those.

        They take the element type of the old weights, and their names where nobody else uses them.
        """
        old = node.inputs[1]
        dtype = w.dtype if old is None or not is_float(old.dtype) else old.dtype
        self._set_constant(node, 1, "weight", w.astype(dtype, copy=False))
        if b is not None:
            self._set_constant(node, 2, "bias", b.astype(dtype, copy=False))

    def release(self, value: Value, restore: Callable[[], NDArray[Any]]) -> None:
        """Let go of the data of a constant, also in copies of the graph; a reader gets what `restore` makes."""
        weights_of(self._raw(value)).release(restore)

    def set_type(
        self, value: Value, dtype: np.dtype | None, shape: Sequence[int | str | None] | None = None
    ) -> None:
        """Declare type and shape of a tensor that is no constant."""
        if value.is_constant:
            raise PassError(f"constant {value.name!r} has the type of its values")
        raw = self._raw(value)
        raw.dtype = None if dtype is None else np.dtype(dtype)
        raw.shape = None if shape is None else tuple(shape)
        raw.info = None

    # whole graph

    def check_sizes(self) -> None:
        """Refuse a model whose sizes would end the process, as a runtime loads it: see `ir.slice_inputs`.

        Raises:
            ModelError: an axis would have a negative size.
        """
        shapes.check_once(self)

    def infer_shapes(self, input_shapes: Mapping[str, Shape] | None = None) -> None:
        """Infer types and shapes of all tensors; what cannot be inferred stays unknown, with a note.

        Args:
            input_shapes: of graph inputs, which replace the declared ones for good; sizes stay, names may get one.
        """
        shapes.infer(self, input_shapes or {})
        self.facts.add(Fact.SHAPES)

    def raise_opset(self, to: int) -> str | None:
        """Convert to a newer default operator set; None when done or not needed, else why not."""
        return opset.raise_opset(self, to)

    def take_discarded_bytes(self) -> int:
        """Bytes of constants that fell out of use since the last call, and wait for the cycle collector."""
        found, self._store.discarded_bytes = self._store.discarded_bytes, 0
        return found

    # inside the package

    def _value(self, raw: Any) -> Value:
        return Value(self, raw)

    def _node(self, raw: StoredNode) -> Node:
        return Node(self, raw)

    def _raw(self, value: Value) -> Any:
        if value._graph is not self:
            raise PassError(f"tensor {value.name!r} belongs to another graph")
        return self._store.adopt(value._raw)

    def _in_use(self, raw: Any) -> bool:
        return bool(raw.outputs) or self._store.captured[raw.name] > 0 or self._value(raw).is_output

    def _read_once(self, value: Value) -> bool:
        return len(value._raw.outputs) == 1 and not value.is_output and not value.used_in_subgraph

    def _unfilled(self, name: str) -> Any:
        raw = self._store.tensors.get(name)
        if raw is None:
            return self._store.add_variable(name)
        if raw.inputs or is_constant(raw) or self._value(raw).is_input:
            raise PassError(f"tensor {name!r} is filled already")
        return raw

    def _take_over(self, old: Value, new: Value) -> None:
        name, old_raw, target = old.name, old._raw, new._raw
        keeps_name = new.producer is None or new.is_output or new.used_in_subgraph
        self._store.rename(old_raw, self.fresh(f"{name}/replaced"))
        if keeps_name:
            copy = self.add_node("Identity", [new], [name], name=f"{name}/copy")
            target = copy._raw.outputs[0]
        else:
            self._store.rename(target, name)
        if target.dtype is None or keeps_name:
            target.dtype, target.shape = old_raw.dtype, old_raw.shape
        self._store.outputs = [target if t is old_raw else t for t in self._store.outputs]
        self._store.discard(old_raw)

    def _set_constant(self, node: Node, i: int, role: str, array: NDArray[Any]) -> None:
        old = node.inputs[i] if i < len(node.inputs) else None
        if old is not None and old.is_constant and self._read_once(old):
            self._store.refill(old._raw, Weights.of_array(array))
        else:
            node.set_input(i, self.constant(f"{node.name}/{role}", array))
