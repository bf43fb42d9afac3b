"""What the factors of one tensor of a node say of those of its others, for operators with f(x / s) = f(x) / s.

Each rule is called as soon as one tensor of its node is known, and again when another is.
"""

import math
from collections.abc import Sequence

import numpy as np

from lpcompile.ir.factor_flow import FactorFlow, Index, Rule, Side
from lpcompile.ir.movement import bounds
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RMS_NORMS
from lpcompile.ir.value import Value

MATRICES = ("Gemm", "MatMul")
LAYERS = ("Conv", "ConvTranspose", *MATRICES)
NORMS = (
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    *RMS_NORMS,
)
PLANES = ("BatchNormalization", "InstanceNormalization")  # norms with channels on axis 1


def input_channels(layer: Node) -> int | None:
    """Channels that a layer takes; None where its weight has an unusual rank."""
    w = layer.inputs[1]
    dims = () if w is None else w.dims
    if layer.op in MATRICES:
        return None if len(dims) != 2 else dims[1] if layer.attrs.get("transB", 0) else dims[0]
    return dims[0] if layer.op == "ConvTranspose" else dims[1] * int(layer.attrs.get("group", 1))


def output_channels(layer: Node) -> int | None:
    """Channels that a layer gives; None where its weight has an unusual rank."""
    w = layer.inputs[1]
    dims = () if w is None else w.dims
    if layer.op in MATRICES:
        return None if len(dims) != 2 else dims[0] if layer.attrs.get("transB", 0) else dims[1]
    return dims[1] * int(layer.attrs.get("group", 1)) if layer.op == "ConvTranspose" else dims[0]


def row_axis(layer: Node, rank: int) -> int:
    """Axis of the channels of a layer's input and output."""
    return rank - 1 if layer.op in MATRICES else 1


def _layer(flow: FactorFlow, node: Node) -> str:
    x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None
    assert w is not None
    assert y is not None
    if node.op == "MatMul" and not x.is_constant and not w.is_constant:
        return _product(flow, node, x, w, y)
    if x.is_constant or not w.is_constant:
        return f"the weights of {node.op} are not constant"
    sides = ((x, Side.READS, input_channels(node)), (y, Side.WRITES, output_channels(node)))
    for value, side, size in sides:
        index = flow.index.get(value.name)
        if index is None:
            continue
        axis = row_axis(node, index.ndim)
        index = flow.alike(index, [i for i in range(index.ndim) if i != axis])
        if size is None or node.attrs.get("transA", 0) or index.ndim <= axis or index.size not in (1, size):
            return f"the channels of {node.op} are on another axis"
        flow.part(node, side, np.broadcast_to(index.reshape(-1), (size,)))
    return ""


def _product(flow: FactorFlow, node: Node, a: Value, b: Value, y: Value) -> str:
    """Rows of the first operand, or columns of the second, are rows or columns of the result."""
    if a.name in flow.index and b.name in flow.index:
        return f"both operands of {node.op} would be scaled"
    ranks = [None if v.shape is None else len(v.shape) for v in (a, b, y)]
    if ranks[0] is None or len(set(ranks)) != 1:
        return f"the operands of {node.op} differ in rank"
    if b.name in flow.index:
        flow.give(y, flow.alike(flow.index[b.name], [ranks[0] - 2]))
    elif a.name in flow.index:
        flow.give(y, flow.alike(flow.index[a.name], [ranks[0] - 1]))
    else:  # as in attention: its values, not its weights
        index = flow.alike(flow.index[y.name], [ranks[0] - 2])
        if any(n > 1 and (b.shape or ())[i] != n for i, n in enumerate(index.shape)):
            return f"the operands of {node.op} are broadcast"
        flow.give(b, index)
    return ""


def _same(flow: FactorFlow, node: Node, alike: Sequence[int] = ()) -> str:
    """One operand, one result, the same factors; one factor along the axes that are worked on."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    if y is None or len(node.outputs) > 1:
        return f"{node.op} has further results"
    known, other = (x, y) if x.name in flow.index else (y, x)
    flow.give(other, flow.alike(flow.index[known.name], alike))
    return ""


def _pooled(flow: FactorFlow, node: Node) -> str:
    x = node.inputs[0]
    return _same(flow, node, range(2, len((x.shape if x is not None else None) or ())))


def _clipped(flow: FactorFlow, node: Node) -> str:
    limits, x = bounds(node), node.inputs[0]
    if limits is None or limits[0] != 0 or not limits[1] > 0:
        return f"{node.op} has other bounds than 0 and a positive number"
    reason = _same(flow, node)
    if x is not None and math.isfinite(limits[1]) and not reason:
        if sum(n > 1 for n in flow.index[x.name].shape) > 1:
            return f"{node.op} bounds factors of several axes"
        flow.limits[x.name] = limits[1]
    return reason


def _sloped(flow: FactorFlow, node: Node) -> str:
    slope = node.inputs[1] if len(node.inputs) > 1 else None
    if slope is not None and not slope.is_constant:
        return f"the slope of {node.op} is not constant"
    return _same(flow, node)


def _ints(node: Node, attribute: str, at: int) -> list[int] | None:
    """Integers from an attribute or a constant input; None where absent or not constant."""
    if attribute in node.attrs:
        return [int(i) for i in node.attrs[attribute]]
    value = node.inputs[at] if at < len(node.inputs) else None
    return None if value is None or not value.is_constant else [int(i) for i in value.values.reshape(-1)]


def _reduced(flow: FactorFlow, node: Node) -> str:
    x, axes = node.inputs[0], _ints(node, "axes", 1)
    rank = len((x.shape if x is not None else None) or ())
    if not axes or not rank:
        return f"the axes of {node.op} are not known"
    axes = sorted(i % rank for i in axes)
    if node.attrs.get("keepdims", 1):
        return _same(flow, node, axes)
    y = node.outputs[0]
    assert x is not None
    if x.name in flow.index:
        flow.give(y, flow.alike(flow.index[x.name], axes).squeeze(tuple(axes)))
    elif y is not None:
        flow.give(x, np.expand_dims(flow.index[y.name], axes))
    return ""


def _sliced(flow: FactorFlow, node: Node) -> str:
    """Only across the axes with factors."""
    x, axes = node.inputs[0], _ints(node, "axes", 3)
    rank = len((x.shape if x is not None else None) or ())
    if axes is None or not rank:
        return f"the axes of {node.op} are not known"
    return _same(flow, node, [i % rank for i in axes])


def _padded(flow: FactorFlow, node: Node) -> str:
    """Zeros have any factor."""
    x, y, pads = node.inputs[0], node.outputs[0], _ints(node, "pads", 1)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filled = (
        node.attrs.get("value", 0.0) if value is None else value.values.any() if value.is_constant else True
    )
    if x is None or y is None or not pads or len(node.inputs) > 3 or min(pads) < 0:
        return f"what {node.op} adds is not known"
    if node.attrs.get("mode", "constant") != "constant" or filled:
        return f"{node.op} adds other numbers than zeros"
    known = flow.index[x.name] if x.name in flow.index else flow.index[y.name]
    ends = [
        (a, b) if n > 1 else (0, 0) for a, b, n in zip(pads, pads[known.ndim :], known.shape, strict=False)
    ]
    if y.name not in flow.index:
        flow.give(y, flow.fresh([a + n + b for (a, b), n in zip(ends, known.shape, strict=True)]))
    whole = flow.index[y.name]
    flow.give(x, whole[tuple(slice(a, n - b) for (a, b), n in zip(ends, whole.shape, strict=True))])
    return ""


def _transposed(flow: FactorFlow, node: Node) -> str:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    assert y is not None
    index = flow.index[x.name] if x.name in flow.index else flow.index[y.name]
    perm = [int(i) for i in node.attrs.get("perm") or range(index.ndim)[::-1]]
    if x.name in flow.index:
        flow.give(y, index.transpose(perm))
    else:
        flow.give(x, index.transpose([int(i) for i in np.argsort(perm)]))
    return ""


def _reshaped(flow: FactorFlow, node: Node) -> str:
    """The elements from the first axis with factors to the last keep their order."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    assert y is not None
    known, other = (x, y) if x.name in flow.index else (y, x)
    index, sizes, wanted = flow.index[known.name], _dims(flow, known), _dims(flow, other)
    if len(sizes) != index.ndim or not wanted:
        return f"the shapes of {node.op} are not known"
    first = next((i for i, n in enumerate(index.shape) if n > 1), index.ndim - 1)
    held = [n for n in sizes[first:] if n is not None]
    at = len(wanted)
    while at and math.prod(n or 0 for n in wanted[at:]) < math.prod(held):
        at -= 1
    shape = [n for n in wanted[at:] if n is not None]
    if len(held) < index.ndim - first or math.prod(shape) != math.prod(held):
        return f"{node.op} mixes channels with other axes"
    full = np.broadcast_to(index, [*index.shape[:first], *held]).reshape([1] * at + shape)
    flow.give(other, _narrow(full))
    return ""


def _narrow(index: Index) -> Index:
    """The same with size 1 on axes along which nothing differs."""
    for axis in range(index.ndim):
        first = np.take(index, [0], axis)
        if index.shape[axis] > 1 and (index == first).all():
            index = first
    return index


def _dims(flow: FactorFlow, value: Value) -> list[int | None]:
    """Sizes of a tensor, also of axes that are known by their factors alone."""
    found = [d if isinstance(d, int) else None for d in value.shape or ()]
    index = flow.index.get(value.name)
    if index is None or index.ndim != len(found):
        return found
    return [m if m > 1 else n for m, n in zip(index.shape, found, strict=True)]


def _summed(flow: FactorFlow, node: Node) -> str:
    """Terms with the same factors; one constant term takes them in."""
    y = node.outputs[0]
    terms = [v for v in node.inputs if v is not None]
    moving = [v for v in terms if not v.is_constant]
    assert y is not None
    index = next(flow.index[v.name] for v in (*moving, y) if v.name in flow.index)
    for v in (*moving, y):
        if v.shape is None or len(v.shape) != index.ndim:
            return f"the terms of {node.op} differ in rank"
        if any(n > 1 and v.shape[i] == 1 for i, n in enumerate(index.shape)):
            return f"{node.op} repeats a term"
    for v in (*moving, y):
        flow.give(v, index)
    if len(moving) < len(terms):
        if node.op not in ("Add", "Sub") or not moving:
            return f"{node.op} has constant terms"
        flow.part(node, Side.SHIFTS, index)
    return ""


def _multiplied(flow: FactorFlow, node: Node) -> str:
    """By a number: the same factors. By one number a channel: an end. By another tensor: only one is scaled."""
    a, b, y = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None
    assert b is not None
    assert y is not None
    if not a.is_constant and not b.is_constant:
        return _gated(flow, node, a, b, y)
    x, c = (b, a) if a.is_constant else (a, b)
    known = flow.index[x.name] if x.name in flow.index else flow.index[y.name]
    if node.op == "Div" and a.is_constant:
        return "Div divides by its result"
    if any(v.shape is None or len(v.shape) != known.ndim for v in (x, y)) or len(c.dims) > known.ndim:
        return f"{node.op} changes the rank"
    if math.prod(c.dims) == 1:
        flow.give(y if x.name in flow.index else x, known)
        return ""
    for v, side in ((y, Side.SCALES), (x, Side.UNSCALES)):
        if v.name in flow.index:
            flow.part(node, side, flow.index[v.name])
    return ""


def _gated(flow: FactorFlow, node: Node, a: Value, b: Value, y: Value) -> str:
    """A product of two tensors: the one that a layer gives is scaled, the other is its gate."""
    if node.op == "Div" or a == b or a.shape is None or not a.shape == b.shape == y.shape:
        return f"{node.op} reads its result"
    if a.name in flow.index and b.name in flow.index:
        return f"both operands of {node.op} would be scaled"
    if y.name not in flow.index:
        flow.give(y, flow.index[a.name if a.name in flow.index else b.name])
    elif a.name not in flow.index and b.name not in flow.index:
        made = [v for v in (a, b) if _is_layers_own(v)]
        if len(made) != 1:
            return "a product of two tensors makes its input"
        flow.give(made[0], flow.index[y.name])
    return ""


def _is_layers_own(value: Value) -> bool:
    """Whether a layer gives it, with its bias, to one reader."""
    node = value.producer
    if node is not None and node.op == "Add":
        node = next((v.producer for v in node.inputs if v is not None and not v.is_constant), None)
    return node is not None and node.op in LAYERS and len(value.consumers) == 1


def _joined(flow: FactorFlow, node: Node) -> str:
    y = node.outputs[0]
    assert y is not None
    return _pieces(flow, node, y, [v for v in node.inputs if v is not None], int(node.attrs["axis"]))


def _split(flow: FactorFlow, node: Node) -> str:
    x = node.inputs[0]
    assert x is not None
    pieces = [v for v in node.outputs if v is not None]
    if len(pieces) < len(node.outputs):
        return f"{node.op} has results that nobody reads"
    return _pieces(flow, node, x, pieces, int(node.attrs.get("axis", 0)))


def _pieces(flow: FactorFlow, node: Node, whole: Value, pieces: list[Value], axis: int) -> str:
    """A tensor and the pieces along one axis of it."""
    known = next(v for v in (whole, *pieces) if v.name in flow.index)
    index = flow.index[known.name]
    axis %= index.ndim
    sizes = [None if v.shape is None or len(v.shape) <= axis else v.shape[axis] for v in pieces]
    ends = np.cumsum([n for n in sizes if isinstance(n, int)])
    if index.shape[axis] == 1 and known.shape is not None and known.shape[axis] != 1:
        for v in (whole, *pieces):
            flow.give(v, index)
        return ""
    if len(ends) < len(pieces):
        return f"the shapes of {node.op} are not known"
    if whole.name not in flow.index:
        flow.give(whole, flow.fresh([int(ends[-1]) if i == axis else n for i, n in enumerate(index.shape)]))
    for v, piece in zip(pieces, np.split(flow.index[whole.name], ends[:-1], axis), strict=True):
        flow.give(v, piece)
    return ""


def _norm(flow: FactorFlow, node: Node) -> str:
    """What a norm gives may be scaled, what it takes may not."""
    y = node.outputs[0]
    if any(v is not None and v.name in flow.index for v in node.inputs):
        return f"{node.op} reads its result"
    constants = node.inputs[1:3]
    if y is None or y.name not in flow.index or not constants:
        return f"further results of {node.op} are read"
    if any(v is not None and (not v.is_constant or len(v.dims) != 1) for v in constants):
        return f"scale and shift of {node.op} are not constants for each channel"
    index = flow.index[y.name]
    axis = 1 if node.op in PLANES else index.ndim - 1
    index = flow.alike(index, [i for i in range(index.ndim) if i != axis])
    size = next(v.dims[0] for v in constants if v is not None)
    flow.part(node, Side.WRITES, np.broadcast_to(index.reshape(-1), (size,)))
    return ""


RULES: dict[str, Rule] = {
    **dict.fromkeys(LAYERS, _layer),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(("Relu", "Identity", "Abs", "Neg", "Dropout"), _same),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _sloped),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pooled),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduced),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshaped),
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min"), _summed),
    **dict.fromkeys(("Mul", "Div"), _multiplied),
    "Clip": _clipped,
    "Concat": _joined,
    "Pad": _padded,
    "Slice": _sliced,
    "Split": _split,
    "Transpose": _transposed,
}
