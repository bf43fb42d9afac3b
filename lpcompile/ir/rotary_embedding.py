"""Pairs of the numbers of a head turned by an angle of their place; RotaryEmbedding of `com.microsoft` in its parts."""

from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.defined_node import positive, real, size_of
from lpcompile.ir.function import FunctionBuilder
from lpcompile.ir.node import Node

_NAMES = ("x", "places", "cos", "sin")
_WITH_HEADS = 4  # axes


def rotary_embedding(node: Node, opset: int) -> FunctionProto | None:
    """Its parts; None for packed batches, and where the number of heads cannot be told."""
    if len(node.inputs) != len(_NAMES) or node.attrs.get("is_packed_batching", 0):
        return None
    x, places, cos, _ = node.inputs
    if x is None or places is None or cos is None or x.shape is None or places.shape is None:
        return None
    half, last, rank = size_of(cos, 1), size_of(x, -1), len(x.shape)
    heads, scale = positive(node, "num_heads"), real(node, "scale", 1.0)
    if half is None or last is None or scale is None or rank not in (_WITH_HEADS - 1, _WITH_HEADS):
        return None
    size = last if rank == _WITH_HEADS else last // heads if heads else 2 * half
    b = FunctionBuilder("RotaryEmbedding", _NAMES, ["y"], "")
    split = "x"
    if rank < _WITH_HEADS:
        apart = b.op("Reshape", "x", ints(b, 0, 0, -1, size))
        split = b.op("Transpose", apart, perm=[0, 2, 1, 3])
    at = b.op("Cast", "places", to=TensorProto.INT64)
    if len(places.shape) == 1:  # of the first place
        length = size_of(x, -2)
        if length is None:
            return None
        at = b.op("Unsqueeze", b.op("Add", at, b.constant(np.arange(length))), ints(b, 0))
    angles = [b.op("Unsqueeze", b.op("Gather", t, at), ints(b, 1)) for t in ("cos", "sin")]
    turned = rotated(b, split, angles, half, size, interleaved=bool(node.attrs.get("interleaved", 0)))
    if scale != 1:
        turned = b.op("Mul", turned, b.constant(np.array(scale, x.dtype)))
    if rank < _WITH_HEADS:
        joined = b.op("Transpose", turned, perm=[0, 2, 1, 3])
        b.op("Reshape", joined, ints(b, 0, 0, last), out="y")
    else:
        b.op("Identity", turned, out="y")
    return b.build(opset)


def rotated(
    b: FunctionBuilder, x: str, angles: Sequence[str], half: int, size: int, *, interleaved: bool
) -> str:
    """The first 2 * half numbers of every head turned, in pairs beside each other or half a head apart.

    Args:
        b: of a body.
        x: (B, heads, S, size).
        angles: cosines and sines, (B, 1, S, half).
        half: how many pairs.
        size: of a head.
        interleaved: whether pairs stand beside each other.
    """
    cos, sin = angles
    if interleaved:
        first, second = (cut(b, x, 3, at, 2 * half, 2) for at in (0, 1))
    else:
        first, second = (cut(b, x, 3, at, at + half) for at in (0, half))
    turned = (
        b.op("Sub", b.op("Mul", first, cos), b.op("Mul", second, sin)),
        b.op("Add", b.op("Mul", second, cos), b.op("Mul", first, sin)),
    )
    if interleaved:
        pairs = (b.op("Unsqueeze", t, ints(b, 4)) for t in turned)
        found = b.op("Reshape", b.op("Concat", *pairs, axis=4), ints(b, 0, 0, 0, 2 * half))
    else:
        found = b.op("Concat", *turned, axis=3)
    return found if 2 * half == size else b.op("Concat", found, cut(b, x, 3, 2 * half, size), axis=3)


def cut(b: FunctionBuilder, x: str, axis: int, low: int, high: int, step: int = 1) -> str:
    """A part of a tensor along one axis."""
    return b.op("Slice", x, *(ints(b, n) for n in (low, high, axis, step)))


def ints(b: FunctionBuilder, *values: int) -> str:
    """A list of int64."""
    return b.constant(np.array(values, np.int64))
