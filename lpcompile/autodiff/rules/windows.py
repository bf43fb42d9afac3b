"""Where the windows of a Conv or a pool lie on its input, and tensors moved between windows and input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Sizes = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows over the spatial axes: position o covers o * stride + tap * dilation - begin.

    Attributes:
        kernel, strides, dilations: one number an axis.
        begin, end: padding; `end` holds what ceil_mode adds, or more where that is not known.
        sizes: of the data, None where not known.
        counts: of the positions, None where not known.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    sizes: Sizes
    counts: Sizes

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def spans(self) -> tuple[int, ...]:
        """Extent of one window."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether every window is one element, and every element has one."""
        return set(self.kernel) | set(self.strides) == {1} and not any((*self.begin, *self.end))

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Every position inside a window, last axis fastest."""
        return np.ndindex(*self.kernel)


def windows_of(node: Node, kernel: Sequence[int], data: Value, positions: Value) -> Windows:
    """The windows of a Conv or pool.

    Args:
        node: has strides, pads, dilations, auto_pad, ceil_mode.
        kernel: shape of one window.
        data: what the windows lie on, (N, C, *sizes).
        positions: one element a window, (N, C', *counts).

    Raises:
        GradientError: the padding depends on a size that is not known.
    """
    rank = len(kernel)
    ones = [1] * rank
    strides = [int(s) for s in node.attrs.get("strides") or ones]
    dilations = [int(d) for d in node.attrs.get("dilations") or ones]
    pads = [int(p) for p in node.attrs.get("pads") or [0] * 2 * rank]
    sizes, counts = spatial_sizes(data, rank), spatial_sizes(positions, rank)
    mode = str(node.attrs.get("auto_pad", "NOTSET"))
    made = Windows(
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
        sizes,
        counts,
    )
    if mode == "VALID":
        made = replace(made, begin=(0,) * rank, end=(0,) * rank)
    elif mode != "NOTSET":
        made = _same(node, made, upper=mode == "SAME_UPPER")
    return _rounded_up(made) if node.attrs.get("ceil_mode", 0) else made


def spatial_sizes(value: Value, rank: int) -> Sizes:
    """Sizes of the last `rank` axes, None where not known."""
    shape = value.dims if value.is_constant else value.shape
    if shape is None or len(shape) < rank:
        return (None,) * rank
    return tuple(d if isinstance(d, int) else None for d in shape[len(shape) - rank :])


def _same(node: Node, w: Windows, *, upper: bool) -> Windows:
    begin, end = [], []
    for span, stride, size in zip(w.spans, w.strides, w.sizes, strict=True):
        if stride == 1:
            total = span - 1
        elif size is None:
            raise GradientError(
                "auto_pad with a stride needs the size of its input",
                where=node.name,
                hint="give the model's input a fixed shape",
            )
        else:
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
        small = total // 2
        begin.append(small if upper else total - small)
        end.append(total - small if upper else small)
    return replace(w, begin=tuple(begin), end=tuple(end))


def _rounded_up(w: Windows) -> Windows:
    end = []
    for i, (size, count) in enumerate(zip(w.sizes, w.counts, strict=True)):
        if size is None or count is None:
            end.append(w.end[i] + w.strides[i] - 1)
        else:
            end.append(max(w.end[i], (count - 1) * w.strides[i] + w.spans[i] - size - w.begin[i]))
    return replace(w, end=tuple(end))


def pad_spatial(
    b: GradientBuilder, x: Value, begin: Sequence[int], end: Sequence[int], fill: float = 0.0
) -> Value:
    """(N, C, *sizes) with elements added at both ends; negative numbers take them away."""
    if any(p < 0 for p in (*begin, *end)):
        axes = [2 + i for i in range(len(begin))]
        starts = [max(0, -p) for p in begin]
        ends = [p if p < 0 else np.iinfo(np.int64).max for p in end]
        x = slice_axes(b, x, starts, ends, axes)
        begin, end = [max(0, p) for p in begin], [max(0, p) for p in end]
    if not any((*begin, *end)):
        return x
    pads = b.constant([0, 0, *begin, 0, 0, *end])
    return typed(b, b.op("Pad", x, pads, b.number(fill, x), mode="constant"), x)


def slice_axes(
    b: GradientBuilder,
    x: Value,
    starts: Sequence[int],
    ends: Sequence[int] | Value,
    axes: Sequence[int],
    steps: Sequence[int] | None = None,
) -> Value:
    """x[..., start:end:step, ...] along some axes."""
    stops = ends if isinstance(ends, Value) else b.constant(list(ends))
    inputs = [x, b.constant(list(starts)), stops, b.constant(list(axes))]
    if steps is not None and set(steps) != {1}:
        inputs.append(b.constant(list(steps)))
    return typed(b, b.op("Slice", *inputs), x)


class TapSlices:
    """For every tap of the windows, what it sees: (N, C, *counts) out of padded data.

    Args:
        b: adds the nodes.
        data: (N, C, *sizes).
        w: the windows.
        positions: a tensor whose last axes are the positions; read for sizes that are not known.
        fill: what padding holds.
    """

    def __init__(
        self, b: GradientBuilder, data: Value, w: Windows, positions: Value, fill: float = 0.0
    ) -> None:
        self._b, self._w = b, w
        self._padded = pad_spatial(b, data, w.begin, w.end, fill)
        self._axes = [2 + i for i in range(w.rank)]
        self._last: Value | None = None  # index of the first tap of the last window, + 1
        if None in w.counts:
            counts = slice_axes(b, b.op("Shape", positions), [2], [2 + w.rank], [0])
            steps = b.constant(list(w.strides))
            self._last = b.op(
                "Add",
                b.op("Mul", b.op("Sub", counts, b.constant([1] * w.rank)), steps),
                b.constant([1] * w.rank),
            )

    def __call__(self, tap: Sequence[int]) -> Value:
        """What one tap sees."""
        w, b = self._w, self._b
        starts = [t * d for t, d in zip(tap, w.dilations, strict=True)]
        if self._last is not None:
            ends: Sequence[int] | Value = b.op("Add", self._last, b.constant(starts))
        else:
            ends = [
                start + ((count or 1) - 1) * s + 1
                for start, count, s in zip(starts, w.counts, w.strides, strict=True)
            ]
            whole = [
                None if n is None else n + p + q for n, p, q in zip(w.sizes, w.begin, w.end, strict=True)
            ]
            if not any(starts) and set(w.strides) == {1} and list(ends) == whole:
                return self._padded
        return slice_axes(b, self._padded, starts, ends, self._axes, w.strides)


def spread(b: GradientBuilder, g: Value, w: Windows) -> tuple[Value, tuple[int, ...]]:
    """Positions moved `stride` apart with zeros between, (N, C, *counts) -> (N, C, *(counts * stride)).

    Returns:
        The tensor, and how many zeros follow the last position on each axis.
    """
    if set(w.strides) == {1}:
        return g, (0,) * w.rank
    if None not in w.counts and g.dtype == np.float32:
        return _spread_known(b, g, w), tuple(s - 1 for s in w.strides)
    apart = typed(b, b.op("Unsqueeze", g, b.constant([3 + 2 * i for i in range(w.rank)])), g)
    ends = [0, 0]
    for s in w.strides:
        ends += [0, s - 1]
    padded = typed(b, b.op("Pad", apart, b.constant([0] * len(ends) + ends), b.number(0.0, g)), g)
    if sum(c is None for c in w.counts) <= 1:
        target: Value | list[int] = [0, 0] + [
            -1 if c is None else c * s for c, s in zip(w.counts, w.strides, strict=True)
        ]
    else:
        target = b.op("Mul", b.op("Shape", g), b.constant([1, 1, *w.strides]))
    return b.reshape(padded, target), tuple(s - 1 for s in w.strides)


def _spread_known(b: GradientBuilder, g: Value, w: Windows) -> Value:
    """The positions repeated, then all but the first copies set to zero: a quarter of the time of a Pad."""
    scales = b.constant(np.array([1, 1, *w.strides], np.float32))
    repeated = b.op(
        "Resize",
        g,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    first = np.zeros([1, 1, *(int(c or 0) * s for c, s in zip(w.counts, w.strides, strict=True))], np.float32)
    kept = (slice(None), slice(None), *(slice(None, None, s) for s in w.strides))
    first[tuple(kept)] = 1
    return b.mul(typed(b, repeated, g), b.constant(first))


def cut_to(b: GradientBuilder, x: Value, like: Value, rank: int) -> Value:
    """The first elements of each spatial axis, as many as another tensor has."""
    sizes = spatial_sizes(like, rank)
    ends: Value | list[int] = [int(s or 0) for s in sizes]
    if None in sizes:
        ends = slice_axes(b, b.op("Shape", like), [2], [2 + rank], [0])
    return slice_axes(b, x, [0] * rank, ends, [2 + i for i in range(rank)])


def typed(b: GradientBuilder, made: Value, like: Value) -> Value:
    """A tensor added here, declared to be of another's element type."""
    b.graph.set_type(made, like.dtype, None)
    return made
