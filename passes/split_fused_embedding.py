"""Rule of `canonicalize`: EmbedLayerNormalization of `com.microsoft` is spelled as Gathers, sums and a norm.

Its tables are then those of Gathers, which can be stored in few bits.
"""

from typing import Any

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import input_at, output_at
from lpcompile.passes.node_replacement import is_named_outside, part

EMBEDDINGS = ("EmbedLayerNormalization",)
_EPSILON = 1e-12  # of the runtime, where an attribute says nothing else
_INT64, _INT32 = np.dtype(np.int64), np.dtype(np.int32)


def split_embedding(graph: LpGraph, node: Node) -> str:
    """Put the parts in a node's place; why not, or nothing."""
    ids, segments, words, places, kinds, scale, shift, mask, at = (input_at(node, i) for i in range(9))
    if ids is None or words is None or places is None or scale is None or shift is None:
        return "it reads no tables of words and places, or its norm has no scale and shift"
    outputs = [v if v is not None and _is_read(v) else None for v in (*node.outputs, None, None)][:3]
    if outputs[1] is not None and mask is None:
        return "its count of words is read, and there is no mask"
    parts = _Parts(graph, node, words.dtype or np.dtype(np.float32))
    total = parts.op(
        "Add", parts.op("Gather", words, ids), parts.op("Gather", places, at or parts.places(ids))
    )
    if kinds is not None and segments is not None:
        total = parts.op("Add", total, parts.op("Gather", kinds, segments))
    norm = graph.add_node(
        "LayerNormalization",
        [total, scale, shift],
        name=node.name,
        attrs={"axis": -1, "epsilon": float(node.attrs.get("epsilon", _EPSILON))},
        before=node,
        metadata=dict(node.metadata),
    )
    graph.set_type(output_at(norm), output_at(node).dtype or total.dtype, output_at(node).shape)
    if outputs[1] is not None and mask is not None:
        graph.replace_uses(outputs[1], parts.count(mask))
    if outputs[2] is not None:
        graph.replace_uses(outputs[2], total)
    graph.replace_uses(output_at(node), output_at(norm))
    graph.remove(node)
    return ""


def _is_read(value: Value) -> bool:
    return bool(value.consumers) or is_named_outside(value)


class _Parts:
    """Adds operators before a node."""

    def __init__(self, graph: LpGraph, node: Node, kind: np.dtype) -> None:
        self._graph, self._node, self._kind = graph, node, kind

    def op(self, op: str, *inputs: Value, kind: np.dtype | None = None, **attrs: Any) -> Value:
        """The output of a new node."""
        return part(self._graph, self._node, op, inputs, attrs, kind=kind or self._kind)

    def count(self, mask: Value) -> Value:
        """How many words of each text there are, (texts,). Axes became an input in opset 13."""
        kind = mask.dtype or _INT32
        if self._graph.opset < 13:
            return self.op("ReduceSum", mask, kind=kind, keepdims=0, axes=[1])
        axis = self._graph.constant(f"{self._node.name}/axis", np.array([1], np.int64))
        return self.op("ReduceSum", mask, axis, kind=kind, keepdims=0)

    def places(self, ids: Value) -> Value:
        """0, 1, ... along the words of each text, (words,)."""
        one = self._graph.constant(f"{self._node.name}/one", np.array(1, np.int64))
        none = self._graph.constant(f"{self._node.name}/none", np.array(0, np.int64))
        length = self.op("Gather", self.op("Shape", ids, kind=_INT64), one, kind=_INT64)
        return self.op("Range", none, length, one, kind=_INT64)
