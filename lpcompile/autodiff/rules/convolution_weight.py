"""Gradient of a convolution with respect to its weights, as matrix products of the delta with shifted data.

    dW[o, c, tap] = sum over samples and positions of delta[o, p] X[c, p * stride + tap * dilation - begin]

Depthwise it is a product by element and a sum for each tap. The same as one convolution costs several forwards.
"""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.rules.windows import TapSlices, Windows, typed
from lpcompile.ir.value import Value

# Up to so many rows (channels times taps), all taps are put into one product: its rows would be too few otherwise.
_JOINT_ROWS = 64


def weight_gradient(
    b: GradientBuilder,
    delta: Value,
    data: Value,
    dims: Sequence[int],
    group: int,
    w: Windows,
    *,
    per_sample: bool = False,
) -> Value:
    """DL/dW (C_out, C_in / group, *kernel), or one a sample, (N, C_out, C_in / group, *kernel).

    Args:
        b: adds the nodes.
        delta: (N, C_out, *counts).
        data: (N, C_in, *sizes).
        dims: shape of the weights.
        group: of the convolution.
        w: its windows.
        per_sample: no sum over the samples.
    """
    slices = TapSlices(b, data, w, delta)
    taps = list(w.taps())
    product = _by_channel if dims[1] == 1 and group > 1 else _by_matrices
    made = product(b, delta, [slices(tap) for tap in taps], dims, group, w, per_sample)
    return b.reshape(made, [0, *dims] if per_sample else dims)


def _by_channel(
    b: GradientBuilder,
    delta: Value,
    seen: Sequence[Value],
    dims: Sequence[int],
    group: int,
    w: Windows,
    per_sample: bool,
) -> Value:
    """One product by element and sum a tap; (C_out, taps), with the samples before where they are kept."""
    multiplier = dims[0] // group
    axes = [2 + i for i in range(w.rank)]
    if multiplier > 1:  # (N, group, multiplier, *counts) with data (N, group, 1, *counts)
        shape = [0, group, multiplier, *(-1 if c is None else c for c in w.counts)]
        delta = _split_channels(b, delta, shape, w)
        axes = [a + 1 for a in axes]
    sums = []
    for x in seen:
        x = typed(b, b.op("Unsqueeze", x, b.constant([2])), x) if multiplier > 1 else x
        sums.append(b.sum(b.mul(delta, x), axes if per_sample else [0, *axes]))
    lead = [0, dims[0]] if per_sample else [dims[0]]
    columns = [b.reshape(s, [*lead, 1]) for s in sums]
    return columns[0] if len(columns) == 1 else typed(b, b.op("Concat", *columns, axis=len(lead)), delta)


def _by_matrices(
    b: GradientBuilder,
    delta: Value,
    seen: Sequence[Value],
    dims: Sequence[int],
    group: int,
    w: Windows,
    per_sample: bool,
) -> Value:
    """Matrix products over the positions; (C_out, C_in / group * taps), the samples before where they are kept."""
    c_out, c_in = dims[0], dims[1]
    taps = len(seen)
    lead = [0] if per_sample else []
    rows = [0, group, c_out // group, -1] if group > 1 else [0, c_out, -1]
    left = b.reshape(delta, rows)
    if taps > 1 and c_in * taps <= _JOINT_ROWS:
        seen = [
            typed(
                b,
                b.op("Concat", *(_grouped(b, x, group, c_in, w) for x in seen), axis=2 if group > 1 else 1),
                delta,
            )
        ]
        right = [b.reshape(seen[0], [0, group, taps * c_in, -1] if group > 1 else [0, taps * c_in, -1])]
    else:
        right = [b.reshape(x, [0, group, c_in, -1] if group > 1 else [0, c_in, -1]) for x in seen]
    made = [_product(b, left, r, group, per_sample) for r in right]
    if taps == 1:
        return made[0]
    if len(made) == 1:  # (.., taps, c_in) -> (.., c_in, taps)
        apart = b.reshape(made[0], [*lead, c_out, taps, c_in])
        return b.transpose(apart, [*range(len(lead)), *(len(lead) + a for a in (0, 2, 1))])
    columns = [b.reshape(m, [*lead, c_out, c_in, 1]) for m in made]
    return typed(b, b.op("Concat", *columns, axis=len(lead) + 2), delta)


def _grouped(b: GradientBuilder, x: Value, group: int, c_in: int, w: Windows) -> Value:
    return b.reshape(x, [0, group, c_in, -1]) if group > 1 else b.reshape(x, [0, c_in, -1])


def _product(b: GradientBuilder, left: Value, right: Value, group: int, per_sample: bool) -> Value:
    """(N, ..., C_out, P) times (N, ..., C, P) over P, and over N unless `per_sample`."""
    swap = [0, 1, 3, 2] if group > 1 else [0, 2, 1]
    each = b.matmul(left, b.transpose(right, swap))
    return each if per_sample else b.sum(each, [0])


def _split_channels(b: GradientBuilder, x: Value, shape: Sequence[int], w: Windows) -> Value:
    if sum(c is None for c in w.counts) <= 1:
        return b.reshape(x, shape)
    sizes = b.op("Slice", b.op("Shape", x), b.constant([2]), b.constant([2 + w.rank]), b.constant([0]))
    return b.reshape(x, b.op("Concat", b.constant(list(shape[:3])), sizes, axis=0))
