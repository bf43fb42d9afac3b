"""AveragePool, MaxPool, LpPool and their global forms.

Windows overlap, so what flows back to an element is a sum over the windows that see it: the transpose of a convolution
with ones, on one channel after the other. Of equal maxima of a window, the first in row-major order gets all.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.convolution import delta_like
from lpcompile.autodiff.rules.convolution_input import Kernel, input_gradient
from lpcompile.autodiff.rules.windows import TapSlices, Windows, cut_to, slice_axes, typed, windows_of
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@rule("AveragePool")
def average_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Each element gets delta / count of every window that sees it."""
    (delta,) = grads
    assert delta is not None
    (x,) = operands(node, 1)
    w = _windows(node, x)
    return [spread_windows(b, _over_counts(b, node, delta, x, w), w, x)]


@rule("LpPool")
def lp_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Y = (sum |X|^p)^(1/p): dX = sign(X) |X|^(p-1) times the windows' sum of delta Y^(1-p)."""
    (delta,) = grads
    assert delta is not None
    (x,) = operands(node, 1)
    y, p = delta_like(node), int(node.attrs.get("p", 2))
    w = _windows(node, x)
    return [_lp(b, delta, x, y, p, lambda g: spread_windows(b, g, w, x))]


@rule("GlobalLpPool")
def global_lp_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """As LpPool, with one window."""
    (delta,) = grads
    assert delta is not None
    (x,) = operands(node, 1)
    return [_lp(b, delta, x, delta_like(node), int(node.attrs.get("p", 2)), lambda g: g)]


@rule("GlobalAveragePool")
def global_average_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Each element gets delta / count."""
    (delta,) = grads
    assert delta is not None
    (x,) = operands(node, 1)
    return [b.expand_like(_mean(b, delta, x), x)]


@rule("GlobalMaxPool")
def global_max_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The first maximum of each channel gets delta."""
    (delta,) = grads
    assert delta is not None
    (x,) = operands(node, 1)
    flat = b.reshape(x, [0, 0, -1])
    first = b.op("Unsqueeze", b.op("ArgMax", flat, axis=2, keepdims=0), b.constant([2]))
    length = slice_axes(b, b.op("Shape", flat), [2], [3], [0])
    index = b.op("Range", b.constant(0), b.op("Squeeze", length, b.constant([0])), b.constant(1))
    chosen = b.op("Equal", index, first)
    spread = b.masked(b.reshape(delta, [0, 0, 1]), chosen)
    return [b.reshape_like(spread, x)]


@rule("MaxPool")
def max_pool(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The first maximum of each window gets its delta."""
    delta = grads[0]
    if delta is None:
        return [None]
    (x,) = operands(node, 1)
    y = delta_like(node)
    w = _windows(node, x)
    slices = TapSlices(b, x, w, y, fill=float("-inf"))
    order = list(enumerate(w.taps()))
    if int(node.attrs.get("storage_order", 0)):
        order.sort(key=lambda numbered: numbered[1][::-1])
    chosen = b.constant(np.int64(-1))
    for i, tap in reversed(order):  # what is written last stays
        chosen = b.op("Where", b.op("Equal", slices(tap), y), b.constant(np.int64(i)), chosen)
    parts = [b.masked(delta, b.op("Equal", chosen, b.constant(np.int64(i)))) for i, _ in sorted(order)]
    return [_gather_taps(b, parts, w, x)]


def spread_windows(b: GradientBuilder, g: Value, w: Windows, x: Value) -> Value:
    """For each element of x (N, C, *sizes), the sum of g (N, C, *counts) over the windows that see it."""
    ones = b.constant(np.ones((1, 1, *w.kernel), g.dtype or x.dtype or np.float32))
    alone = _channels_alone(b, g, w.counts)
    made = input_gradient(b, alone, Kernel(ones, (1, 1, *w.kernel), 1), w, x)
    return b.with_shape(b.op("Reshape", made, b.shape(x)), x)


def _channels_alone(b: GradientBuilder, g: Value, sizes: Sequence[int | None]) -> Value:
    """(N, C, *sizes) -> (N C, 1, *sizes)."""
    if all(s is not None for s in sizes):
        return b.reshape(g, [-1, 1, *(int(s or 0) for s in sizes)])
    kept = slice_axes(b, b.op("Shape", g), [2], [2 + len(sizes)], [0])
    return b.reshape(g, b.op("Concat", b.constant([-1, 1]), kept, axis=0))


def _gather_taps(b: GradientBuilder, parts: Sequence[Value], w: Windows, x: Value) -> Value:
    """One gradient a tap, (N, C, *counts) each, added up at the elements that the taps see."""
    weight = np.zeros((len(parts), 1, *w.kernel), x.dtype or np.float32)
    for i, tap in enumerate(w.taps()):
        weight[(i, 0, *tap)] = 1
    columns = [_channels_alone(b, p, w.counts) for p in parts]
    joined = typed(b, b.op("Concat", *columns, axis=1), x) if len(columns) > 1 else columns[0]
    made = input_gradient(b, joined, Kernel(b.constant(weight), weight.shape, 1), w, x)
    return b.with_shape(b.op("Reshape", made, b.shape(x)), x)


def _over_counts(b: GradientBuilder, node: Node, delta: Value, x: Value, w: Windows) -> Value:
    """The delta of every window over the number that its sum was divided by."""
    taps = int(np.prod(w.kernel))
    padded = int(node.attrs.get("count_include_pad", 0))
    rounded = int(node.attrs.get("ceil_mode", 0))
    if not any((*w.begin, *w.end)) or (padded and not rounded):
        return b.scale(delta, 1 / taps)
    inside = _inside(b, delta, x, w)
    if not padded:
        return typed(b, b.op("Div", delta, inside), x)
    # What a window that reaches over the padding is divided by, runtimes do not agree on: ask this one.
    mean = b.op("AveragePool", _ones(b, x, w), **dict(node.attrs))
    return b.mul(delta, typed(b, b.op("Div", typed(b, mean, x), inside), x))


def _inside(b: GradientBuilder, delta: Value, x: Value, w: Windows) -> Value:
    """How many elements of the data each window sees, (1, 1, *counts)."""
    if None not in (*w.sizes, *w.counts):
        found = np.ones((), np.int64)
        for i, (size, count) in enumerate(zip(w.sizes, w.counts, strict=True)):
            seen = np.arange(count or 0)[:, None] * w.strides[i] + np.arange(w.kernel[i]) * w.dilations[i]
            seen -= w.begin[i]
            found = found[..., None] * ((seen >= 0) & (seen < (size or 0))).sum(1)
        return b.constant(np.maximum(found, 1)[None, None].astype(x.dtype or np.float32))
    kernel = b.constant(np.ones((1, 1, *w.kernel), x.dtype or np.float32))
    made = b.op(
        "Conv",
        _ones(b, x, w),
        kernel,
        strides=list(w.strides),
        dilations=list(w.dilations),
        pads=[*w.begin, *w.end],
    )
    return cut_to(b, typed(b, made, x), delta, w.rank)


def _ones(b: GradientBuilder, x: Value, w: Windows) -> Value:
    """Ones in the spatial shape of the data."""
    sizes = slice_axes(b, b.op("Shape", x), [2], [2 + w.rank], [0])
    one = b.constant(np.ones((1,) * (2 + w.rank), x.dtype or np.float32))
    return typed(b, b.op("Expand", one, b.op("Concat", b.constant([1, 1]), sizes, axis=0)), x)


def _mean(b: GradientBuilder, delta: Value, x: Value) -> Value:
    """The delta of a global mean over the number of elements."""
    rank = rank_of(x)
    shape = None if x.shape is None else x.shape[2:]
    if shape is not None and all(isinstance(d, int) for d in shape):
        return b.scale(delta, 1 / int(np.prod([int(d or 0) for d in shape], dtype=np.int64)))
    sizes = slice_axes(b, b.op("Shape", x), [2], [np.iinfo(np.int64).max if rank is None else rank], [0])
    count = b.cast(b.op("ReduceProd", sizes, keepdims=0), np.dtype(x.dtype or np.float32))
    return b.div(delta, count)


def _lp(
    b: GradientBuilder, delta: Value, x: Value, y: Value, p: int, spread: Callable[[Value], Value]
) -> Value:
    if p == 1:
        return b.with_shape(b.mul(b.op("Sign", x), spread(delta)), x)
    zero = b.op("Equal", y, b.number(0.0, x))  # of a window of zeros nothing flows back
    safe = typed(b, b.op("Where", zero, b.number(1.0, x), y), x)
    share = spread(b.with_shape(b.masked(b.mul(delta, _power(b, safe, 1 - p)), b.op("Not", zero)), y))
    odd = x if p == 2 else b.mul(b.op("Sign", x), _power(b, typed(b, b.op("Abs", x), x), p - 1))
    return b.with_shape(b.mul(odd, share), x)


def _power(b: GradientBuilder, x: Value, exponent: int) -> Value:
    return typed(b, b.op("Pow", x, b.number(float(exponent), x)), x)


def _windows(node: Node, x: Value) -> Windows:
    return windows_of(node, [int(k) for k in node.attrs["kernel_shape"]], x, delta_like(node))
