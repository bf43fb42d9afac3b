"""Weights that no layer reads: they are compiled as they are, which a user who expects fewer bytes should be told."""

from collections import Counter

from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_OF_PASSES = frozenset({"Gather", "GRU", "LSTM", "RNN"})
_LEAST_BYTES = 2048
_LEAST_SHARE = 0.25  # of all float constants: less is no surprise


def other_weights(graph: LpGraph) -> str | None:
    """A sentence on the matrices that no layer reads; tables and recurrent layers have passes that speak of them.

    Args:
        graph: float.

    Returns:
        None where these are few beside the weights of layers.
    """
    layers = set(graph.layers())
    constants = [v for v in graph.constants() if is_float(v.dtype)]
    others = [v for v in constants if _is_other(v, layers)]
    size = sum(v.nbytes for v in others)
    if size < max(_LEAST_BYTES, _LEAST_SHARE * sum(v.nbytes for v in constants)):
        return None
    readers = Counter(_reader(n, v) for v in others for n in v.consumers)
    named = ", ".join(f"{count} {reader}" for reader, count in readers.most_common(3))
    return f"{size:,} bytes of weights stay as they are, since no layer reads them: {named}"


def _is_other(value: Value, layers: set[Node]) -> bool:
    return (
        len(value.dims) > 1
        and bool(value.consumers)
        and not value.used_in_subgraph
        and not any(n in layers or n.op in _OF_PASSES for n in value.consumers)
    )


def _reader(node: Node, value: Value) -> str:
    left = " (on the left)" if node.op in ("MatMul", "Gemm") and node.inputs[0] == value else ""
    return node.operator + left
