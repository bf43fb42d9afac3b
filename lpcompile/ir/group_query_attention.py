"""GroupQueryAttention of `com.microsoft` in its parts: heads that share keys, a past, rotated by their places.

The past may stand in a longer buffer: what lies behind `seqlens_k` of it is not seen. Keys that are new come after it.
"""

from itertools import pairwise

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.defined_node import positive, real, size_of
from lpcompile.ir.function import FunctionBuilder
from lpcompile.ir.node import Node
from lpcompile.ir.rotary_embedding import cut, ints, rotated
from lpcompile.ir.value import Value

_NAMES = ("query", "key", "value", "past_key", "past_value", "seqlens", "total", "cos", "sin")
_OUTPUTS = ("y", "present_key", "present_value")
_ATTRIBUTES = {"num_heads", "kv_num_heads", "scale", "do_rotary", "rotary_interleaved", "softcap"}
_AXES = 4  # of the past and the present
_NOWHERE = 1 << 40  # the place of what is not seen


def group_query_attention(node: Node, opset: int) -> FunctionProto | None:
    """Its parts; None for windows, biases, sinks, caches of integers, and where past and present are one buffer."""
    inputs = [*node.inputs, *[None] * len(_NAMES)][: max(len(_NAMES), len(node.inputs))]
    query, key, value, past, past_value, seqlens, total, cos, sin = inputs[: len(_NAMES)]
    others = {k: v for k, v in node.attrs.items() if k not in _ATTRIBUTES}
    if any(v is not None for v in inputs[len(_NAMES) :]) or any(map(_says_something, others.items())):
        return None
    heads, shared = (positive(node, name) for name in ("num_heads", "kv_num_heads"))
    if not heads or not shared or heads % shared:
        return None
    size = _head_size(query, heads if key is not None else heads + 2 * shared)
    if past is not None and len(past.shape or ()) != _AXES:
        return None
    if any(len(x.shape or ()) != 3 for x in (key, value) if x is not None):
        return None
    if any(size_of(x, 2) not in (None, shared * size) for x in (key, value) if x is not None):
        return None
    scale, cap = real(node, "scale", 0.0), real(node, "softcap", 0.0)
    if scale is None or cap is None:
        return None
    rotates = bool(node.attrs.get("do_rotary", 0))
    given = (query, seqlens, total, *((cos, sin) if rotates else ()))
    if not size or any(v is None for v in given) or (key is None) != (value is None):
        return None
    if len(node.outputs) > len(_OUTPUTS) or (past is None) != (past_value is None) or _in_place(node, past):
        return None
    b = FunctionBuilder("GroupQueryAttention", _NAMES[: len(node.inputs)], _OUTPUTS[: len(node.outputs)], "")
    if key is None:
        ends = np.cumsum([0, heads, shared, shared]) * size
        q, k, v = (cut(b, "query", 2, int(low), int(high)) for low, high in pairwise(ends))
    else:
        q, k, v = "query", "key", "value"
    q, k, v = (_heads(b, x, n, size) for x, n in ((q, heads), (k, shared), (v, shared)))
    length = b.op("Gather", b.op("Shape", "query"), ints(b, 1))  # (1,) new places
    before = b.op("Sub", b.op("Add", b.op("Cast", "seqlens", to=TensorProto.INT64), ints(b, 1)), length)
    whole = b.op("Reshape", b.op("Cast", "total", to=TensorProto.INT64), ints(b, 1))
    before = b.op("Where", b.op("Equal", length, whole), ints(b, 0), before)  # the first call has no past
    before = b.op("Reshape", before, ints(b, -1, 1))  # (B, 1)
    places = b.op("Add", before, _counted(b, length, size_of(query, 1)))  # (B, S)
    if rotates:
        width = size_of(cos, 1)
        if width is None:
            return None
        interleaved = bool(node.attrs.get("rotary_interleaved", 0))
        angles = [b.op("Unsqueeze", b.op("Gather", t, places), ints(b, 1)) for t in ("cos", "sin")]
        q, k = (rotated(b, x, angles, width, size, interleaved=interleaved) for x in (q, k))
    known = places
    if past is not None:
        held = b.op("Gather", b.op("Shape", "past_key"), ints(b, 2))
        row = b.op("Unsqueeze", _counted(b, held, size_of(past, 2)), ints(b, 0))  # (1, P)
        seen = b.op("Less", row, before)
        known = b.op("Concat", b.op("Where", seen, row, ints(b, _NOWHERE)), places, axis=1)  # (B, P + S)
        k, v = (b.op("Concat", p, x, axis=2) for p, x in (("past_key", k), ("past_value", v)))
    for name, x in zip(_OUTPUTS[1 : len(node.outputs)], (k, v), strict=False):
        b.op("Identity", x, out=name)
    kind = np.dtype(query.dtype) if query is not None and query.dtype is not None else np.dtype(np.float32)
    grouped = b.op("Reshape", q, ints(b, 0, shared, heads // shared, -1, size))
    k, v = (b.op("Unsqueeze", x, ints(b, 2)) for x in (k, v))
    scores = b.op("MatMul", grouped, b.op("Transpose", k, perm=[0, 1, 2, 4, 3]))
    scores = b.op("Mul", scores, b.constant(np.array(scale or size**-0.5, kind)))
    if cap:
        most = b.constant(np.array(cap, kind))
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, most)), most)
    later = b.op("Less", b.op("Unsqueeze", places, ints(b, 2)), b.op("Unsqueeze", known, ints(b, 1)))
    least = b.constant(np.array(np.finfo(kind).min, kind))
    scores = b.op("Where", b.op("Unsqueeze", later, ints(b, 1, 2)), least, scores)
    y = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)  # (B, KV, H / KV, S, size)
    joined = b.op("Transpose", b.op("Reshape", y, ints(b, 0, heads, -1, size)), perm=[0, 2, 1, 3])
    b.op("Reshape", joined, ints(b, 0, 0, heads * size), out="y")
    return b.build(opset)


def _counted(b: FunctionBuilder, count: str, known: int | None) -> str:
    """0, 1, ... as many as a number (1,) says, which may be known."""
    if known is not None:
        return b.constant(np.arange(known))
    zero, one = (b.constant(np.array(n, np.int64)) for n in (0, 1))
    return b.op("Range", zero, b.op("Squeeze", count, ints(b, 0)), one)


def _heads(b: FunctionBuilder, x: str, count: int, size: int) -> str:
    """(B, count, S, size) of (B, S, count * size)."""
    return b.op("Transpose", b.op("Reshape", x, ints(b, 0, 0, count, size)), perm=[0, 2, 1, 3])


def _says_something(attribute: tuple[str, object]) -> bool:
    """Whether an attribute that we know nothing of asks for more than none of it."""
    name, value = attribute
    return value not in ((-1,) if name == "local_window_size" else (0, 0.0, -1, b"", "", b"NONE", "NONE"))


def _in_place(node: Node, past: Value | None) -> bool:
    """Whether the present is as long as the past: one buffer, in which new keys take places of their own."""
    present = node.outputs[1] if len(node.outputs) > 1 else None
    lengths = [
        None if v is None or len(v.shape or ()) != _AXES else (v.shape or ())[2] for v in (past, present)
    ]
    return lengths[0] is not None and lengths[0] == lengths[1]


def _head_size(query: Value | None, heads: int) -> int:
    """Numbers of one head; 0 where there are no three axes, or the last is not known."""
    if query is None or query.shape is None or len(query.shape) != 3:
        return 0
    return (size_of(query, 2) or 0) // heads
