"""Elementwise work as the end of the layer before it: a strip is finished, then stored. [cim-machine 2, fusion]."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from lpcompile.backends.cim.program import Requant
from lpcompile.backends.cim.views import View, channels_last
from lpcompile.backends.cim.work import (
    Buffers,
    Dense,
    Finish,
    Grouped,
    Map,
    Product,
    Rescale,
    Step,
    Sum,
    Work,
    reads,
)


def fuse(work: Sequence[Work], buffers: Buffers) -> list[Work]:
    """Let layers take over the Maps that alone read them.

    The fused layer stands where the Map stood, when its other operand is there.
    """
    readers = Counter(v.buffer for item in work for v in reads(item))
    writers = Counter(item.out.buffer for item in work)
    found: list[Work] = []
    for item in work:
        layer = _producer(found, item) if isinstance(item, Map) else None
        if layer is None or not isinstance(item, Map):
            found.append(item)
            continue
        index, swapped, order = layer
        before = found[index]
        assert isinstance(before, (Dense, Grouped))
        buffer = before.out.buffer
        if readers[buffer] != 1 or writers[buffer] != 1 or buffer in buffers.ports:
            found.append(item)
            continue
        other = item.x if swapped else item.other
        step = _swapped(item.step) if swapped else item.step
        moved = None if other is None else other.transposed(order)
        del found[index]
        found.append(
            replace(
                before,
                out=item.out.transposed(order),
                steps=(*before.steps, Finish(step, moved, item.name)),
            )
        )
    return found


def _producer(done: Sequence[Work], item: Map) -> tuple[int, bool, tuple[int, ...]] | None:
    """The layer that fills an operand: its place, whether that is the second operand, the order of its axes."""
    for swapped, view in ((False, item.x), (True, item.other)):
        if view is None or view.dtype != "u8":
            continue
        for index in range(len(done) - 1, -1, -1):
            before = done[index]
            if not isinstance(before, (Dense, Grouped)) or before.out.buffer != view.buffer:
                continue
            order = _order(view, before.out)
            if order is None or (isinstance(item.step, Rescale) and order != tuple(range(len(order)))):
                return None
            return index, swapped, order
    return None


def _order(view: View, out: View) -> tuple[int, ...] | None:
    """The order of axes in which a view is the layer's output."""
    rank = len(view.shape)
    last = channels_last(rank)
    back = tuple(last.index(i) for i in range(rank))
    for order in (tuple(range(rank)), last, back):
        if view.transposed(order) == out:
            return order
    return None


def _swapped(step: Step) -> Step:
    """The same step with its operands exchanged."""
    if isinstance(step, Sum):
        r: Requant = step.requant
        return Sum(replace(r, m=(r.m[1], r.m[0])))
    if isinstance(step, Product):
        return replace(step, zeros=(step.zeros[1], step.zeros[0]))
    return step
