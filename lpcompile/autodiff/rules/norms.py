"""Division by the size of neighbouring elements: LRN (across channels), LpNormalization (along an axis)."""

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@elementwise("LRN")
def local_response_normalization(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dL/dx = dL/dy s^-beta - 2 alpha beta x W'(dL/dy y / s), with y = x s^-beta, s = bias + alpha W(x²).

    W is the mean over a window of channels, W' the one over the mirrored window.
    """
    size, alpha = int(node.attrs["size"]), node.attrs.get("alpha", 0.0001)
    beta, bias = node.attrs.get("beta", 0.75), node.attrs.get("bias", 1.0)
    before, after = (size - 1) // 2, size // 2
    mean_square = _channel_mean(b, b.mul(x, x), x, size, before, after)
    s = b.add(b.scale(mean_square, alpha), b.number(bias, x))
    direct = b.mul(g, b.apply("Pow", s, b.number(-beta, x)))
    shared = _channel_mean(b, b.div(b.mul(g, y), s), x, size, after, before)
    return b.sub(direct, b.scale(b.mul(x, shared), 2 * alpha * beta))


def _channel_mean(b: GradientBuilder, a: Value, like: Value, size: int, before: int, after: int) -> Value:
    images = b.reshape(a, b.vector([b.dim(like, 0), 1, b.dim(like, 1), -1]))
    pads = [before, 0, after, 0]
    pooled = b.apply("AveragePool", images, kernel_shape=[size, 1], pads=pads, count_include_pad=1)
    return b.reshape(pooled, b.shape(like))


@elementwise("LpNormalization")
def lp_normalization(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """dL/dx = (dL/dy - n' sum(dL/dy y)) / n, with the norm n and its gradient n': y for p = 2, sign(x) for p = 1."""
    axis, p = int(node.attrs.get("axis", -1)), int(node.attrs.get("p", 2))
    if p == 1:
        slope, norm = b.apply("Sign", x), b.sum(b.apply("Abs", x), [axis], keepdims=True)
    else:
        slope, norm = y, b.apply("Sqrt", b.sum(b.mul(x, x), [axis], keepdims=True))
    one_for_zero = b.cast(b.op("Equal", norm, b.number(0.0, x)), x.dtype or np.dtype(np.float32))
    share = b.sum(b.mul(g, y), [axis], keepdims=True)
    return b.div(b.sub(g, b.mul(slope, share)), b.add(norm, one_for_zero))
