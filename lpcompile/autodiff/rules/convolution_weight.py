"""Gradient of a convolution with respect to its weights.

    dW[o, c, tap] = sum over samples and positions of delta[o, p] X[c, p * stride + tap * dilation - begin]

A matrix product of the delta with shifted data for each tap, 1.1 to 1.6 times a forward; as one convolution whose
kernel is the delta it takes 2 to 3. Depthwise it is a product by element and a sum for each tap, or, with a stride,
that convolution, one group for each channel of each sample: a third of the time, and no shifted copies. So do kernels
of many taps and one group, as filter banks have: thousands of nodes took the runtime longer to load than to run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.rules.windows import TapSlices, Windows, pad_spatial, slice_axes, typed
from lpcompile.ir.value import Value

# Up to so many rows (channels times taps), all taps are put into one product: its rows would be too few otherwise.
_JOINT_ROWS = 64
_MANY_TAPS = 64


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
    shape = [0, *dims] if per_sample else dims
    if not w.pointwise:  # or the shifted data of every layer would lie about from the start
        data = after(b, data, delta)
    if dims[1] == 1 and group > 1:
        samples = None if data.shape is None else data.shape[0]
        one_each = dims[0] == group and None not in (*w.sizes, *w.counts)
        if one_each and isinstance(samples, int) and set(w.strides) != {1}:
            return b.reshape(_by_convolution(b, delta, data, samples, dims, w, per_sample), shape)
        return b.reshape(_by_channel(b, delta, data, dims, group, w, per_sample), shape)
    if group == 1 and int(np.prod(w.kernel)) > _MANY_TAPS:
        return b.reshape(_many_taps(b, delta, data, w, per_sample), shape)
    joined = not per_sample and _samples_joined(dims, w)
    if joined:  # (C, N, ...), so that rows run over all samples
        order = [1, 0, *(2 + i for i in range(w.rank))]
        delta, data = b.transpose(delta, order), b.transpose(data, order)
    made = _by_matrices(b, delta, data, dims, group, w, [] if joined else [0])
    return b.reshape(made if joined or per_sample else b.sum(made, [0]), shape)


def _many_taps(b: GradientBuilder, delta: Value, data: Value, w: Windows, per_sample: bool) -> Value:
    """Channels are the batch of a convolution whose kernel is the delta; the samples its channels, or one at a time."""
    data = pad_spatial(b, data, [min(0, p) for p in w.begin], [min(0, p) for p in w.end])
    axes = [2 + i for i in range(w.rank)]
    if not per_sample:
        turned = [1, 0, *axes]
        made = b.op("Conv", b.transpose(data, turned), b.transpose(delta, turned), **_exchanged(w))
        return b.transpose(slice_axes(b, typed(b, made, data), [0] * w.rank, w.kernel, axes), turned)
    names = ("x", "delta", "one", "channels", "kernel", "made", "starts", "ends", "axes", "taps", "y")
    # the runtime takes no name in a body that stands outside
    x, each, one, channels, kernel, made_, starts, ends, along, taps, y = map(b.graph.fresh, names)
    nodes = [
        onnx.helper.make_node("Unsqueeze", [x, one], [channels]),
        onnx.helper.make_node("Unsqueeze", [each, one], [kernel]),
        onnx.helper.make_node("Conv", [channels, kernel], [made_], **_exchanged(w)),
        onnx.helper.make_node("Slice", [made_, starts, ends, along], [taps]),
        onnx.helper.make_node("Transpose", [taps], [y], perm=[1, 0, *axes]),
    ]
    held = {one: [1], starts: [0] * w.rank, ends: list(w.kernel), along: axes}
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(data.dtype or np.float32))
    infos = [onnx.helper.make_tensor_value_info(name, element, None) for name in (x, each, y)]
    constants = [onnx.numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in held.items()]
    body = onnx.helper.make_graph(nodes, "of_sample", infos[:2], infos[2:], constants)
    return typed(b, b.op("Scan", data, delta, num_scan_inputs=2, body=body), data)


def _exchanged(w: Windows) -> dict[str, Any]:
    """Attributes of the convolution whose kernel is the delta: steps and dilations change places."""
    return {
        "strides": list(w.dilations),
        "dilations": list(w.strides),
        "pads": [max(0, p) for p in (*w.begin, *w.end)],
    }


def _samples_joined(dims: Sequence[int], w: Windows) -> bool:
    """Whether one product over all samples, of tensors that are turned first, beats one a sample and their sum."""
    if len(list(w.taps())) > 1 or None in w.counts:
        return True
    positions = int(np.prod([c or 0 for c in w.counts], dtype=np.int64))
    return dims[0] * dims[1] > (dims[0] + dims[1]) * positions


def _by_matrices(
    b: GradientBuilder,
    delta: Value,
    data: Value,
    dims: Sequence[int],
    group: int,
    w: Windows,
    lead: list[int],
) -> Value:
    """Products of (*lead, group, C_out / group, P) with (*lead, group, C, P), a tap each: (*lead, C_out, C, taps)."""
    c_out, c_in = dims[0], dims[1]
    groups = [group] if group > 1 else []
    slices = TapSlices(b, data, w, delta)
    taps = list(w.taps())
    left = b.reshape(delta, [*lead, *groups, c_out // group, -1])
    seen = (b.reshape(slices(tap), [*lead, *groups, c_in, -1]) for tap in taps)
    rows = len(lead) + len(groups)
    if len(taps) == 1 or c_in * len(taps) > _JOINT_ROWS:
        each = [b.reshape(_product(b, left, right, rows), [*lead, c_out, c_in, 1]) for right in seen]
        return each[0] if len(each) == 1 else typed(b, b.op("Concat", *each, axis=len(lead) + 2), delta)
    right = typed(b, b.op("Concat", *seen, axis=rows), delta)
    made = b.reshape(_product(b, left, right, rows), [*lead, c_out, len(taps), c_in])
    return b.transpose(made, [*range(len(lead)), *(len(lead) + a for a in (0, 2, 1))])


def _product(b: GradientBuilder, left: Value, right: Value, lead: int) -> Value:
    """(.., M, P) times (.., K, P) over P, with `lead` axes before."""
    if not lead:
        return typed(b, b.op("Gemm", left, right, transB=1), left)
    return b.matmul(left, b.transpose(right, [*range(lead), lead + 1, lead]))


def _by_channel(
    b: GradientBuilder,
    delta: Value,
    data: Value,
    dims: Sequence[int],
    group: int,
    w: Windows,
    per_sample: bool,
) -> Value:
    """One product by element and sum a tap; (C_out, taps), with the samples before where they are kept."""
    multiplier = dims[0] // group
    axes = [2 + i for i in range(w.rank)]
    slices = TapSlices(b, data, w, delta)
    if multiplier > 1:  # (N, group, multiplier, *counts) with data (N, group, 1, *counts)
        delta = _split_channels(b, delta, [0, group, multiplier], w)
        axes = [a + 1 for a in axes]
    lead = [0, dims[0]] if per_sample else [dims[0]]
    columns = []
    for tap in w.taps():
        x = slices(tap)
        x = typed(b, b.op("Unsqueeze", x, b.constant([2])), x) if multiplier > 1 else x
        columns.append(b.reshape(b.sum(b.mul(delta, x), axes if per_sample else [0, *axes]), [*lead, 1]))
    return columns[0] if len(columns) == 1 else typed(b, b.op("Concat", *columns, axis=len(lead)), delta)


def _split_channels(b: GradientBuilder, x: Value, lead: Sequence[int], w: Windows) -> Value:
    """(N, C, *counts) with the channels split in two axes."""
    if sum(c is None for c in w.counts) <= 1:
        return b.reshape(x, [*lead, *(-1 if c is None else c for c in w.counts)])
    sizes = slice_axes(b, b.op("Shape", x), [2], [2 + w.rank], [0])
    return b.reshape(x, b.op("Concat", b.constant(list(lead)), sizes, axis=0))


def _by_convolution(
    b: GradientBuilder,
    delta: Value,
    data: Value,
    samples: int,
    dims: Sequence[int],
    w: Windows,
    per_sample: bool,
) -> Value:
    """A channel of a sample is a group, whose kernel is its delta."""
    channels = samples * dims[0]
    data = pad_spatial(b, data, [min(0, p) for p in w.begin], [min(0, p) for p in w.end])
    sizes = [int(n or 0) + min(0, p) + min(0, q) for n, p, q in zip(w.sizes, w.begin, w.end, strict=True)]
    made = b.op(
        "Conv",
        b.reshape(data, [1, channels, *sizes]),
        b.reshape(delta, [channels, 1, *(int(c or 0) for c in w.counts)]),
        group=channels,
        **_exchanged(w),
    )
    taps = slice_axes(b, typed(b, made, data), [0] * w.rank, w.kernel, [2 + i for i in range(w.rank)])
    each = b.reshape(taps, [samples, dims[0], -1])
    return each if per_sample else b.sum(each, [0])
