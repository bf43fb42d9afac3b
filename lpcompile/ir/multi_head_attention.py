"""MultiHeadAttention of `com.microsoft` in its parts: softmax(q k^T scale + masks) v, head by head."""

import numpy as np
from onnx import FunctionProto

from lpcompile.ir.defined_node import positive, real
from lpcompile.ir.function import FunctionBuilder
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_NAMES = ("query", "key", "value", "bias", "keys", "added")
_MASKED = -10000.0  # what ONNX Runtime adds where an attribute says nothing else


def multi_head_attention(node: Node, opset: int) -> FunctionProto | None:
    """Its parts; None where queries, keys and values do not have three axes, or it keeps or gives more than y.

    The mask is one of keys (batch, keys), or of how many there are (batch,).
    """
    inputs = [*node.inputs, *[None] * 6][: max(6, len(node.inputs))]
    query, key, value, bias, mask, added = inputs[:6]
    sizes = [_width(v) for v in (query, key, value)]
    if any(v is not None for v in inputs[6:]) or node.outputs[1:] or None in sizes:
        return None
    rank = 2 if mask is None or mask.shape is None else len(mask.shape)
    if rank > 2 or (mask is not None and mask.shape is None) or (rank == 1 and not _is_length(mask, query)):
        return None
    widths = [int(s or 0) for s in sizes]
    heads = positive(node, "num_heads")
    scale, masked = real(node, "scale", 0.0), real(node, "mask_filter_value", _MASKED)
    if not heads or widths[0] % heads or scale is None or masked is None:
        return None
    b = FunctionBuilder("MultiHeadAttention", _NAMES[: len(node.inputs)], ["y"], "")
    given = ["query", "key", "value"]
    if bias is not None:
        parts = b.constant(np.array(widths, np.int64))
        b.split("bias", parts, ["query_bias", "key_bias", "value_bias"])
        given = [b.op("Add", v, f"{v}_bias") for v in given]
    split = b.constant(np.array([0, 0, heads, -1], np.int64))
    perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (
        b.op("Transpose", b.op("Reshape", x, split), perm=p) for x, p in zip(given, perms, strict=True)
    )
    scale = scale or (widths[0] // heads) ** -0.5
    kind = np.dtype(query.dtype) if query is not None and query.dtype is not None else np.dtype(np.float32)
    scores = b.op("Mul", b.op("MatMul", q, k), b.constant(np.array(scale, kind)))
    low = b.constant(np.array(masked, kind))
    none = b.constant(np.array(0, kind))
    if added is not None:
        scores = b.op("Add", scores, "added")
    if mask is not None:
        if rank == 2:
            seen = b.op("Cast", "keys", to=9)  # bool
        else:
            lengths = b.op("Unsqueeze", b.op("Cast", "keys", to=7), b.constant(np.array([1], np.int64)))
            seen = b.op("Less", _places(b, key, "key"), lengths)
        seen = b.op("Unsqueeze", seen, b.constant(np.array([1, 2], np.int64)))
        scores = b.op("Add", scores, b.op("Where", seen, none, low))
    if node.attrs.get("unidirectional", 0):
        own = b.op("Unsqueeze", _places(b, query, "query"), b.constant(np.array([1], np.int64)))
        later = b.op("Less", own, _places(b, key, "key"))
        scores = b.op("Where", later, b.constant(np.array(np.finfo(kind).min, kind)), scores)
    y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    turned = b.op("Transpose", y, perm=[0, 2, 1, 3])
    b.op("Reshape", turned, b.constant(np.array([0, 0, -1], np.int64)), out="y")
    return b.build(opset)


def _places(b: FunctionBuilder, like: Value | None, value: str) -> str:
    """0, 1, ... along the second axis of queries or keys, whose number may be known."""
    length = None if like is None or like.shape is None else like.shape[1]
    if isinstance(length, int):
        return b.constant(np.arange(length))
    none, one = (b.constant(np.array(n, np.int64)) for n in (0, 1))
    return b.op("Range", none, b.op("Gather", b.op("Shape", value), one), one)


def _is_length(mask: Value | None, query: Value | None) -> bool:
    """Whether a mask of one axis has a number for each sample; other forms are longer."""
    return (
        mask is not None and query is not None and query.shape is not None and mask.shape == query.shape[:1]
    )


def _width(value: Value | None) -> int | None:
    """Of the last of three axes; None where there are others, or it is not known."""
    if value is None or value.shape is None or len(value.shape) != 3:
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None
