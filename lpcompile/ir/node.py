"""`Node`: a view on one node of one graph."""

from typing import TYPE_CHECKING, Any

from onnx_graphsurgeon.ir.tensor import Variable

from lpcompile.ir.attributes import Attributes
from lpcompile.ir.bodies import Body
from lpcompile.ir.store import StoredNode

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph
    from lpcompile.ir.value import Value


class Node:
    """One node of one graph; two views are equal when they show the same node."""

    __slots__ = ("_graph", "_raw")

    def __init__(self, graph: "LpGraph", raw: StoredNode) -> None:
        self._graph = graph
        self._raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self._raw is other._raw

    def __hash__(self) -> int:
        return id(self._raw)

    def __repr__(self) -> str:
        ins, outs = ", ".join(self.input_names), ", ".join(self.output_names)
        return f"Node({self.name!r}: {outs} = {self.op}({ins}))"

    @property
    def name(self) -> str:
        """Name, unique in the graph."""
        name: str = self._raw.name
        return name

    @property
    def op(self) -> str:
        """Operator type."""
        op: str = self._raw.op
        return op

    @property
    def domain(self) -> str:
        """Operator domain, "" for ai.onnx."""
        domain: str = self._raw.domain
        return domain

    @property
    def operator(self) -> str:
        """Type with the domain, if any, before it: "com.microsoft::Gelu"."""
        return f"{self.domain}::{self.op}" if self.domain else self.op

    @property
    def attrs(self) -> Attributes:
        """Attributes as Python values; assigning and popping entries edits the node."""
        attrs: Attributes = self._raw.attrs
        return attrs

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the node, written with the model."""
        return self._raw.metadata

    @property
    def doc_string(self) -> str:
        """Documentation string."""
        return self._raw.doc_string

    @property
    def inputs(self) -> "list[Value | None]":
        """A fresh list of inputs, None where an optional one is omitted, trailing ones dropped."""
        return self._views(self._raw.inputs)

    @property
    def outputs(self) -> "list[Value | None]":
        """A fresh list of outputs, None where one is not wanted, trailing ones dropped."""
        return self._views(self._raw.outputs)

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, "" where one is omitted."""
        return [t.name for t in self._raw.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, "" where one is not wanted."""
        return [t.name for t in self._raw.outputs]

    @property
    def subgraphs(self) -> list[Body]:
        """Control-flow bodies among the attributes."""
        return self.attrs.bodies()

    def set_input(self, i: int, value: "Value | None") -> None:
        """Make input `i` read `value`; None omits it. Missing inputs before it are omitted ones."""
        store, inputs = self._graph._store, self._raw.inputs
        new = Variable.empty() if value is None else self._graph._raw(value)
        while len(inputs) <= i:
            inputs.append(Variable.empty())
        old = inputs[i]
        inputs[i] = new
        while inputs and inputs[-1].is_empty():
            inputs.pop()
        if not old.is_empty():
            store.discard(old)
        store.touch()

    def set_attr(self, name: str, value: Any) -> None:
        """Set an attribute; the value takes the type that the operator's schema declares."""
        self.attrs[name] = value

    def _views(self, tensors: Any) -> "list[Value | None]":
        views = [None if t.is_empty() else self._graph._value(t) for t in tensors]
        while views and views[-1] is None:
            views.pop()
        return views
