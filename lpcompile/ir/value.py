"""`Value`: a view on one tensor of one graph."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import PassError
from lpcompile.ir.store import Shape, contains, is_constant, weights_of

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph
    from lpcompile.ir.node import Node


class Value:
    """One tensor of one graph; two views are equal when they show the same tensor."""

    __slots__ = ("_graph", "_raw")

    def __init__(self, graph: "LpGraph", raw: Any) -> None:
        self._graph = graph
        self._raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self._raw is other._raw

    def __hash__(self) -> int:
        return id(self._raw)

    def __repr__(self) -> str:
        dims = "?" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"Value({self.name!r}, {self.dtype}[{dims}]{', constant' if self.is_constant else ''})"

    @property
    def name(self) -> str:
        """Name of the tensor."""
        name: str = self._raw.name
        return name

    @property
    def dtype(self) -> np.dtype | None:
        """Element type as numpy or ml_dtypes spells it; None where unknown or no tensor."""
        dtype: np.dtype | None = self._raw.dtype
        return dtype

    @property
    def shape(self) -> Shape | None:
        """Dimensions: numbers, names of symbolic ones, None for unknown ones; None without a known rank."""
        shape: Shape | None = self._raw.shape
        return shape

    @property
    def is_constant(self) -> bool:
        """Whether it is an initialiser."""
        return is_constant(self._raw)

    @property
    def values(self) -> NDArray[Any]:
        """The numbers of a constant, read only, read when asked for.

        Raises:
            PassError: the tensor is no constant.
        """
        if not self.is_constant:
            raise PassError(f"tensor {self.name!r} is no constant", where=self.name)
        return weights_of(self._raw).array()

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of a constant, known without reading it.

        Raises:
            PassError: the tensor is no constant.
        """
        if not self.is_constant:
            raise PassError(f"tensor {self.name!r} is no constant", where=self.name)
        return weights_of(self._raw).shape

    @property
    def nbytes(self) -> int:
        """Bytes of a constant as stored, known without reading it; 0 for other tensors."""
        return weights_of(self._raw).nbytes if self.is_constant else 0

    @property
    def producer(self) -> "Node | None":
        """The node that fills it; None for graph inputs and constants."""
        return self._graph._node(self._raw.inputs[0]) if self._raw.inputs else None

    @property
    def consumers(self) -> "list[Node]":
        """Distinct nodes that read it as an input, in execution order; bodies do not count here."""
        found = {id(node): node for node in self._raw.outputs}
        nodes = list(found.values())
        if len(nodes) > 1:
            nodes.sort(key=self._graph._store.position)
        return [self._graph._node(node) for node in nodes]

    @property
    def is_input(self) -> bool:
        """Whether the caller feeds it."""
        return contains(self._graph._store.inputs, self._raw)

    @property
    def is_output(self) -> bool:
        """Whether the caller reads it."""
        return contains(self._graph._store.outputs, self._raw)

    @property
    def used_in_subgraph(self) -> bool:
        """Whether a control-flow body reads it by name; it may not be renamed, removed or retyped then."""
        return self._graph._store.captured[self.name] > 0
