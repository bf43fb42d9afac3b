"""From nodes of the reference graph to work on views. [cim-machine 2, op mapping].

The sums of the reference graph are over `x - zero point`; the machine sums raw codes, pads with the zero point, and
takes `zero point * sum of weights` off in the requantisation, which is exact: b - m * z * sum(w).
"""

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.batch_axis import batch_moves, works_along_batch
from lpcompile.backends.cim.moves import MOVES, move_reason
from lpcompile.backends.cim.program import Requant, Window
from lpcompile.backends.cim.values import StageValues, family, fits_device, shape_of
from lpcompile.backends.cim.views import View, channels_last
from lpcompile.backends.cim.work import (
    Dense,
    Fill,
    Grouped,
    Lut,
    Map,
    Move,
    Pool,
    Product,
    Rescale,
    SidePath,
    Step,
    Sum,
)
from lpcompile.ir.dyadic import trailing_axes
from lpcompile.ir.forms import FORM_OPS
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.quant.dyadic import Requant as Integers
from lpcompile.quant.dyadic_numbers import DyadicNumbers, LayerWeights

LAYERS = {f"{kind}{op}" for kind in ("Dyadic", "Accumulate") for op in ("Conv", "Gemm", "MatMul")}
POOLS = ("DyadicAveragePool", "DyadicGlobalAveragePool", "MaxPool")
ELEMENTWISE = ("DyadicAdd", "DyadicMul", "QuantNorm", "Lookup")
CLAMPS = ("Clip", "Min", "Max")
INT32 = 2**31 - 1
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]


def device_reason(
    node: Node, numbers: DyadicNumbers, host: frozenset[str], mixed: frozenset[str] = frozenset()
) -> str:
    """Why the machine does not do a node; empty where it does.

    Args:
        node: of the reference graph.
        numbers: its integers.
        host: nodes to keep on the host.
        mixed: tensors whose symbolic first axis is not the batch.
    """
    if node.name in host:
        return "kept on the host on request"
    name = family(node)
    known = name in LAYERS or name in POOLS or name in ELEMENTWISE or name in CLAMPS or name in MOVES
    if not known or (node.domain == "" and (name in LAYERS or name in ELEMENTWISE)):
        if node.op in FORM_OPS and any(_is_float(v) for v in node.inputs):
            return "it works on floats, as what no layer needs in codes does"
        return f"the machine has no {node.op}"
    values = [v for v in _operands(node, name) if v is not None]
    for value in (*values, *(v for v in node.outputs if v is not None)):
        if value.is_constant:
            return "one operand is a constant"
        if reason := fits_device(value):
            return reason
    if batch_moves(node):
        return "a symbolic axis stands elsewhere than first"
    if name in MOVES and works_along_batch(node):
        return "it works along the batch axis, and the machine serves one sample"
    if any(v.name in mixed for v in values):
        return "its first axis is not the batch alone: a node before works along it or folds an axis into it"
    if name in MOVES:
        return move_reason(node)
    if name in CLAMPS:
        return _clamp_reason(node)
    if name == "MaxPool" and len(node.outputs) > 1:
        return "its indices are read"
    return ""


def _clamp_reason(node: Node) -> str:
    bounds = [v for v in node.inputs[1:] if v is not None]
    if any(not v.is_constant for v in bounds):
        return "its bounds are not constant"
    if any(np.size(v.values) != 1 for v in bounds):
        return "its bounds differ by element"
    x = node.inputs[0]
    return "" if x is not None and str(x.dtype) == "uint8" else "it clamps sums, not codes"


def _is_float(value: Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.kind == "f" and not value.is_constant


def _operands(node: Node, name: str) -> list[Value | None]:
    if name == "Concat":
        return node.inputs
    return node.inputs[: 2 if name in ("DyadicAdd", "DyadicMul") else 1]


def read_node(stage: StageValues, node: Node, numbers: DyadicNumbers) -> None:
    """Add what a node does to the work of its stage."""
    name = family(node)
    if name in LAYERS:
        _layer(stage, node, numbers.weights[node.name], numbers)
    elif name in POOLS:
        _pool(stage, node, numbers)
    elif name in ELEMENTWISE:
        _elementwise(stage, node, name, numbers)
    elif name in CLAMPS:
        _clamp(stage, node, name)
    else:
        MOVES[name](stage, node)


def _value(value: Value | None) -> Value:
    assert value is not None
    return value


def channel_order(view: View) -> View:
    """Axes as (batch, spatial..., channel)."""
    return view.transposed(channels_last(len(view.shape)))


# layers


def requant_of(r: Integers, correction: I64 | None = None) -> Requant:
    """The machine's form; equal entries of all channels become one.

    Args:
        r: of the reference graph.
        correction: zero point times sum of weights, which m multiplies, by output.
    """
    m, b, k = r.m.reshape(-1), r.b.reshape(-1), r.k.reshape(-1)
    if correction is not None:
        b = b - m * correction
    return Requant(_entries(m), _entries(b), _entries(k), r.zero, r.low, r.high)


def _entries(values: I64) -> tuple[int, ...]:
    listed = values.tolist()
    return (listed[0],) if len(set(listed)) == 1 else tuple(listed)


def _layer(stage: StageValues, node: Node, w: LayerWeights, numbers: DyadicNumbers) -> None:
    x_value, y_value = _value(node.inputs[0]), _value(node.outputs[0])
    held = stage.held[x_value.name]
    (zero,) = numbers.input_zero_points[node.name]
    sums = np.asarray(w.rows.sum(1, dtype=np.int64)) * zero
    accumulates = family(node).startswith("Accumulate")
    if accumulates:
        requant = Requant((1,), _entries(-sums), (0,), 0, -INT32 - 1, INT32)
        top = INT32
    else:
        requant = requant_of(numbers.requants[node.name], sums)
        top = requant.high
    convolves = family(node).endswith("Conv")
    out = stage.output(y_value, features_last=not convolves)
    stage.give(y_value, out, top)
    bits = max(1, max(held.code_max, zero).bit_length())  # pads are codes too: those of the zero point
    if not convolves:
        weights = np.ascontiguousarray(w.rows.T)
        macs = prod(out.shape) * len(weights)
        dense = Dense(node.name, held.view, out, None, weights, requant, bits, macs)
        stage.work.append(replace(dense, side=_side(numbers, node, ())))
        return
    x, y = channel_order(held.view), channel_order(out)
    x, window = _padded(stage, node, x, _window(node, x, w.shape[2:], zero))
    group = int(node.attrs.get("group", 1))
    kernels = w.rows.reshape(w.shape)
    macs = prod(y.shape) * w.rows.shape[1]
    if group == 1:
        weights = _channel_rows(w.rows, w.shape[1:])
        dense = Dense(node.name, x, y, window, weights, requant, bits, macs)
        stage.work.append(replace(dense, side=_side(numbers, node, w.shape[1:])))
        return
    by_group = kernels.reshape(group, w.shape[0] // group, w.shape[1], -1)
    stage.work.append(Grouped(node.name, x, y, window, by_group, requant, bits, macs))


def _channel_rows(rows: I8, shape: tuple[int, ...]) -> I8:
    """(kernel... * C_in, outputs) of rows (outputs, C_in * kernel...) that have this shape."""
    kernels = rows.reshape(len(rows), *shape)
    return np.ascontiguousarray(np.moveaxis(kernels, 1, -1).reshape(len(rows), -1).T)


def _side(numbers: DyadicNumbers, node: Node, shape: tuple[int, ...]) -> SidePath | None:
    """The side path of a layer; `shape` is that of a convolution's weights without its outputs."""
    side = numbers.sides.get(node.name)
    if side is None:
        return None
    (zero,) = numbers.input_zero_points[node.name]
    first = _channel_rows(side.a, shape) if shape else np.ascontiguousarray(side.a.T)
    hidden = requant_of(side.hidden, np.asarray(side.a.sum(1, dtype=np.int64)) * zero)
    return SidePath(first, hidden, np.ascontiguousarray(side.b.T), requant_of(side.added))


def _padded(stage: StageValues, node: Node, x: View, window: Window) -> tuple[View, Window]:
    """The input and the window; padded in memory where a position reads nothing but padding: no strip holds it."""
    spatial = x.shape[1:-1]
    last = [(n - 1) * s for n, s in zip(window.out_counts(spatial), window.strides, strict=True)]
    reach = [d * (k - 1) for d, k in zip(window.dilations, window.kernel, strict=True)]
    if all(b <= r and at - b < n for b, r, at, n in zip(window.begin, reach, last, spatial, strict=True)):
        return x, window
    shape = [b + n + e for b, n, e in zip(window.begin, spatial, window.end, strict=True)]
    room = inner = stage.room((x.shape[0], *shape, x.shape[-1]), tuple(range(len(x.shape))), x.dtype)
    for axis, (b, n) in enumerate(zip(window.begin, spatial, strict=True), start=1):
        inner = inner.taken(axis, b, n)
    stage.work += [Fill(node.name, room, window.pad_value), Move(node.name, x, inner)]
    none = (0,) * len(spatial)
    return room, replace(window, begin=none, end=none)


def _window(node: Node, x: View, kernel: tuple[int, ...], pad_value: int) -> Window:
    rank = len(kernel)
    attrs: Any = node.attrs
    pads = [int(p) for p in attrs.get("pads") or [0] * 2 * rank]
    if attrs.get("auto_pad", "NOTSET") == "VALID":
        pads = [0] * 2 * rank
    return Window(
        tuple(int(k) for k in kernel),
        tuple(int(s) for s in attrs.get("strides") or [1] * rank),
        tuple(int(d) for d in attrs.get("dilations") or [1] * rank),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
        pad_value,
    )


# pools


def _pool(stage: StageValues, node: Node, numbers: DyadicNumbers) -> None:
    x_value, y_value = _value(node.inputs[0]), _value(node.outputs[0])
    held = stage.held[x_value.name]
    out = stage.output(y_value)
    x, y = channel_order(held.view), channel_order(out)
    spatial = x.shape[1:-1]
    name = family(node)
    if name == "MaxPool":
        window = _fitted(_window(node, x, tuple(node.attrs["kernel_shape"]), 0), spatial, y.shape[1:-1])
        stage.give(y_value, out, held.code_max)
        stage.work.append(Pool(node.name, x, y, window, "max"))
        return
    r = numbers.requants[node.name]
    (zero,) = numbers.input_zero_points[node.name]
    whole = name == "DyadicGlobalAveragePool"
    window = _window(node, x, spatial if whole else tuple(node.attrs["kernel_shape"]), zero)
    taken = np.asarray(prod(window.kernel) * zero)
    stage.give(y_value, out, r.high)
    if r.m.ndim < 3:
        requants: tuple[Any, ...] = ((requant_of(r, taken), tuple((0, n) for n in y.shape[1:-1])),)
    else:
        requants = tuple(
            (requant_of(replace(r, m=np.array([m])), taken), box) for m, box in _boxes(r.m[0, 0])
        )
    stage.work.append(Pool(node.name, x, y, window, "sum", requants))


def _fitted(window: Window, spatial: tuple[int, ...], out: tuple[int, ...]) -> Window:
    """The padding at the end that gives these output counts (ceil_mode)."""
    end = [
        (o - 1) * s + d * (k - 1) + 1 - n - b
        for o, s, d, k, n, b in zip(
            out, window.strides, window.dilations, window.kernel, spatial, window.begin, strict=True
        )
    ]
    return replace(window, end=tuple(max(e, 0) for e in end))


def _boxes(m: I64) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Boxes of positions with one multiplier, which together cover all of them."""
    cuts = []
    for axis in range(m.ndim):
        changes = np.any(np.diff(m, axis=axis) != 0, axis=tuple(a for a in range(m.ndim) if a != axis))
        at = [0, *(np.flatnonzero(changes) + 1).tolist(), m.shape[axis]]
        cuts.append(list(pairwise(at)))
    boxes: list[tuple[tuple[int, int], ...]] = [()]
    for ranges in cuts:
        boxes = [(*box, r) for box in boxes for r in ranges]
    return [(int(m[tuple(a for a, _ in box)]), box) for box in boxes]


# elementwise


def _elementwise(stage: StageValues, node: Node, name: str, numbers: DyadicNumbers) -> None:
    y_value = _value(node.outputs[0])
    operands = [stage.held[_value(v).name] for v in _operands(node, name)]
    out = stage.output(y_value, features_last=_features_last(operands[0].view))
    step: Step
    if name == "Lookup":
        table = numbers.luts[node.name]
        step, top = Lut(table.tobytes()), int(table.max())
    else:
        r = requant_of(numbers.requants[node.name])
        top = r.high
        if name == "DyadicAdd":
            step = Sum(replace(r, m=tuple(numbers.requants[node.name].m.reshape(-1).tolist())))
        elif name == "DyadicMul":
            a, b = numbers.input_zero_points[node.name]
            step = Product(r, (a, b))
        else:
            step = Rescale(r)
    stage.give(y_value, out, top)
    other = operands[1].view.expanded(out.shape) if len(operands) > 1 else None
    order = channels_last(len(out.shape))
    if name == "QuantNorm":
        channel = len(out.shape) - 1 - trailing_axes(node.op)
        order = (*(i for i in range(len(out.shape)) if i != channel), channel)
    _map(stage, node.name, operands[0].view.expanded(out.shape), other, out, step, order)


def _features_last(view: View) -> bool:
    """Whether the last axis is the fastest in memory although there are spatial axes."""
    return len(view.shape) > 2 and view.strides[-1] == view.item and view.shape[-1] > 1


def _map(
    stage: StageValues,
    name: str,
    x: View,
    other: View | None,
    out: View,
    step: Step,
    order: tuple[int, ...],
) -> None:
    stage.work.append(
        Map(
            name,
            x.transposed(order),
            None if other is None else other.transposed(order),
            out.transposed(order),
            step,
        )
    )


def _clamp(stage: StageValues, node: Node, name: str) -> None:
    """Clip, Min or Max of codes with constants: a table."""
    held = stage.held[_value(node.inputs[0]).name]
    codes = np.arange(256)
    bounds = [None if v is None else int(np.asarray(v.values).reshape(-1)[0]) for v in node.inputs[1:]]
    if name == "Clip":
        low, high = (*bounds, None, None)[:2]
        codes = np.clip(codes, 0 if low is None else low, 255 if high is None else high)
    else:
        for bound in bounds:
            assert bound is not None
            codes = (np.minimum if name == "Min" else np.maximum)(codes, bound)
    table = codes.astype(np.uint8)
    y_value = _value(node.outputs[0])
    out = stage.output(y_value, features_last=_features_last(held.view))
    stage.give(y_value, out, int(table[: held.code_max + 1].max()))
    order = channels_last(len(out.shape))
    _map(stage, node.name, held.view, None, out, Lut(table.tobytes()), order)


__all__ = ["device_reason", "read_node", "shape_of"]
