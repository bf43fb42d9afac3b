"""Nodes that move codes: views where strides can say it, copies where they cannot. [cim-machine 2, op mapping]."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from lpcompile.backends.cim.values import StageValues, shape_of
from lpcompile.backends.cim.views import View
from lpcompile.backends.cim.work import Fill, Move
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def constant(node: Node, i: int) -> np.ndarray | None:
    """Values of a constant input; None where it is omitted.

    Raises:
        ValueError: it is no constant.
    """
    value = node.inputs[i] if i < len(node.inputs) else None
    if value is None:
        return None
    if not value.is_constant:
        raise ValueError(f"input {i} of {node.op} is no constant")
    return np.asarray(value.values)


def axis_of(node: Node, rank: int, default: int = 0) -> int:
    """The axis attribute of a node, counted from the front."""
    return int(node.attrs.get("axis", default)) % rank


def _out(node: Node, i: int = 0) -> Value:
    value = node.outputs[i]
    assert value is not None
    return value


def _out_shape(node: Node) -> tuple[int, ...]:
    shape = shape_of(_out(node))
    assert shape is not None
    return shape


def _source(stage: StageValues, node: Node) -> tuple[View, int]:
    x = node.inputs[0]
    assert x is not None
    return stage.held[x.name].view, stage.held[x.name].code_max


def _reshape(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    stage.give(_out(node), _reshaped(stage, node, view), top)


def _reshaped(stage: StageValues, node: Node, view: View) -> View:
    """The elements of a view in the shape of the node's output, copied where strides cannot say it."""
    shape = _out_shape(node)
    if (found := view.reshaped(shape)) is None:
        copy = stage.room(view.shape, tuple(range(len(view.shape))), view.dtype)
        stage.work.append(Move(node.name, view, copy))
        found = copy.reshaped(shape)
        assert found is not None, "a dense copy takes every shape"
    return found


def _transpose(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    order = node.attrs.get("perm") or list(reversed(range(len(view.shape))))
    stage.give(_out(node), view.transposed([int(i) for i in order]), top)


def _expand(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    stage.give(_out(node), view.expanded(_out_shape(node)), top)


def _concat(stage: StageValues, node: Node) -> None:
    out = _out(node)
    room = stage.output(out)
    axis, first, top = axis_of(node, len(room.shape)), 0, 0
    for value in node.inputs:
        assert value is not None
        held = stage.held[value.name]
        part = room.taken(axis, first, held.view.shape[axis])
        if part != held.view and held.view.size:
            stage.work.append(Move(node.name, held.view, part))
        first += held.view.shape[axis]
        top = max(top, held.code_max)
    stage.give(out, room, top)


def slice_ranges(node: Node, shape: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(axis, first, count, step) of each axis that a Slice cuts.

    Raises:
        ValueError: bounds are not constant, or it runs backwards.
    """
    starts, ends = constant(node, 1), constant(node, 2)
    if starts is None or ends is None:
        raise ValueError("a Slice without bounds")
    axes, steps = constant(node, 3), constant(node, 4)
    found = []
    for i, (start, end) in enumerate(
        zip(starts.reshape(-1).tolist(), ends.reshape(-1).tolist(), strict=True)
    ):
        axis = (i if axes is None else int(axes.reshape(-1)[i])) % len(shape)
        step = 1 if steps is None else int(steps.reshape(-1)[i])
        if step < 1:
            raise ValueError("a Slice that runs backwards")
        taken = range(*slice(int(start), int(end), step).indices(shape[axis]))
        found.append((axis, taken.start, len(taken), step))
    return found


def _slice(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    for axis, first, count, step in slice_ranges(node, view.shape):
        view = view.taken(axis, first, count, step)
    stage.give(_out(node), view, top)


def _split(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    axis, first = axis_of(node, len(view.shape)), 0
    for value in node.outputs:
        if value is not None:
            shape = shape_of(value)
            assert shape is not None
            stage.give(value, view.taken(axis, first, shape[axis]), top)
            first += shape[axis]


def _gather(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    axis = axis_of(node, len(view.shape))
    wanted = constant(node, 1)
    assert wanted is not None
    indices = [int(i) % view.shape[axis] for i in wanted.reshape(-1)]
    if wanted.ndim == 0:
        stage.give(_out(node), view.taken(axis, indices[0], 1).dropped(axis), top)
        return
    steps = set(np.diff(indices).tolist())
    if len(steps) <= 1 and (not steps or min(steps) > 0):
        found = view.taken(axis, indices[0], len(indices), steps.pop() if steps else 1)
    elif wanted.ndim == 1:
        found = stage.output(_out(node))
        _gather_runs(stage, node, view, found, axis, indices)
    else:
        shape = (*view.shape[:axis], len(indices), *view.shape[axis + 1 :])
        found = stage.room(shape, tuple(range(len(shape))), view.dtype)
        _gather_runs(stage, node, view, found, axis, indices)
    stage.give(_out(node), found if wanted.ndim == 1 else _reshaped(stage, node, found), top)


def _gather_runs(
    stage: StageValues, node: Node, view: View, room: View, axis: int, indices: Sequence[int]
) -> None:
    for first, count, step in _runs(indices):
        part = view.taken(axis, indices[first], count, step)
        stage.work.append(Move(node.name, part, room.taken(axis, first, count)))


def _runs(indices: Sequence[int]) -> list[tuple[int, int, int]]:
    """Cut into (first position, count, step) with rising steps."""
    found, i = [], 0
    while i < len(indices):
        step = indices[i + 1] - indices[i] if i + 1 < len(indices) else 1
        j = i + 1
        while step > 0 and j < len(indices) and indices[j] - indices[j - 1] == step:
            j += 1
        found.append((i, j - i, max(1, step) if j - i > 1 else 1))
        i = j
    return found


def _tile(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    repeats = constant(node, 1)
    assert repeats is not None
    room = stage.output(_out(node))
    shape, into = [], []
    for n, r in zip(view.shape, repeats.reshape(-1).tolist(), strict=True):
        shape += [int(r), n]
        into += [1, n]
    split = room.reshaped(shape)
    source = view.reshaped(into)
    if split is None or source is None:
        raise ValueError("a Tile of axes that cannot be taken apart")
    stage.work.append(Move(node.name, source.expanded(shape), split))
    stage.give(_out(node), room, top)


def _pad(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    pads, code, room = pad_widths(node, len(view.shape)), constant(node, 2), stage.output(_out(node))
    value = 0 if code is None else int(code.reshape(-1)[0])
    stage.work.append(Fill(node.name, room, value))
    inner = room
    for axis, (before, _) in enumerate(pads):
        inner = inner.taken(axis, before, view.shape[axis])
    stage.work.append(Move(node.name, view, inner))
    stage.give(_out(node), room, max(top, value))


def pad_widths(node: Node, rank: int) -> list[tuple[int, int]]:
    """Padding before and after each axis.

    Raises:
        ValueError: not a constant padding with what is given, or it cuts.
    """
    if node.attrs.get("mode", "constant") != "constant":
        raise ValueError("only constant padding is a fill")
    given, axes = constant(node, 1), constant(node, 3)
    if given is None or (given < 0).any():
        raise ValueError("padding that cuts")
    chosen = list(range(rank)) if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    found = [(0, 0)] * rank
    for i, axis in enumerate(chosen):
        found[axis] = (int(given[i]), int(given[i + len(chosen)]))
    return found


def _depth_to_space(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    n, c, h, w = view.shape
    b = int(node.attrs["blocksize"])
    columns_first = node.attrs.get("mode", "DCR") == "CRD"
    split = (n, c // (b * b), b, b, h, w) if columns_first else (n, b, b, c // (b * b), h, w)
    order = (0, 1, 4, 2, 5, 3) if columns_first else (0, 3, 4, 1, 5, 2)
    _rearranged(stage, node, view.reshaped(split), order, (n, c // (b * b), h, b, w, b), top)


def _space_to_depth(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    n, c, h, w = view.shape
    b = int(node.attrs["blocksize"])
    split = view.reshaped((n, c, h // b, b, w // b, b))
    _rearranged(stage, node, split, (0, 3, 5, 1, 2, 4), (n, b, b, c, h // b, w // b), top)


def _rearranged(
    stage: StageValues, node: Node, split: View | None, order: Sequence[int], shape: Sequence[int], top: int
) -> None:
    room = stage.output(_out(node))
    to = room.reshaped(shape)
    if split is None or to is None:
        raise ValueError("axes that cannot be taken apart")
    stage.work.append(Move(node.name, split.transposed(order), to))
    stage.give(_out(node), room, top)


def nearest_factors(node: Node, shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """Whole repetitions of each axis in a nearest Resize.

    Raises:
        ValueError: it picks other than whole repetitions.
    """
    if node.attrs.get("mode", "nearest") != "nearest" or any(o % n for n, o in zip(shape, out, strict=True)):
        raise ValueError("only nearest with whole factors repeats")
    factors = [o // n for n, o in zip(shape, out, strict=True)]
    for n, f in zip(shape, factors, strict=True):
        if not np.array_equal(_nearest(node, n, f), np.arange(n * f) // f):
            raise ValueError("nearest picks other than whole repetitions")
    return factors


def _nearest(node: Node, n: int, factor: int) -> np.ndarray:
    """Indices that a nearest Resize by a whole factor picks. [ONNX, Resize]."""
    i = np.arange(n * factor, dtype=np.float64)
    how = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if how == "asymmetric":
        x = i / factor
    elif how == "align_corners":
        x = i * (n - 1) / max(1, n * factor - 1)
    elif how in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        x = (i + 0.5) / factor - 0.5
        x = x if how != "pytorch_half_pixel" or n * factor > 1 else np.zeros_like(x)
    else:
        raise ValueError(f"coordinates '{how}'")
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    found = {
        "floor": np.floor(x),
        "ceil": np.ceil(x),
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
    }[rounding]
    return np.clip(found, 0, n - 1).astype(np.int64)


def _resize(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    room = stage.output(_out(node))
    factors = nearest_factors(node, view.shape, room.shape)
    shape, into, repeated = [], [], []
    for n, f in zip(view.shape, factors, strict=True):
        shape += [n, f]
        into += [n, 1]
        repeated.append(f)
    source, to = view.reshaped(into), room.reshaped(shape)
    if source is None or to is None:
        raise ValueError("axes that cannot be taken apart")
    stage.work.append(Move(node.name, source.expanded(shape), to))
    stage.give(_out(node), room, top)


def _identity(stage: StageValues, node: Node) -> None:
    view, top = _source(stage, node)
    stage.give(_out(node), view, top)


MOVES: dict[str, Callable[[StageValues, Node], None]] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Identity": _identity,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}


def move_reason(node: Node) -> str:
    """Why a moving node stays on the host; empty where it need not."""
    x, y = node.inputs[0], node.outputs[0]
    shape, out = (None if v is None else shape_of(v) for v in (x, y))
    if shape is None or out is None:
        return "a shape is not known"
    if node.op != "Concat" and any(v is not None and not v.is_constant for v in node.inputs[1:]):
        return "where its elements go is computed by the graph"
    try:
        if node.op == "Slice":
            slice_ranges(node, shape)
        elif node.op == "Pad":
            pad_widths(node, len(shape))
            constant(node, 2)
        elif node.op == "Resize":
            nearest_factors(node, shape, out)
        elif node.op in ("Gather", "Tile"):
            wanted = constant(node, 1)
            if node.op == "Gather" and (wanted is None or not wanted.size):
                return "it picks nothing"
        elif node.op in ("DepthToSpace", "SpaceToDepth") and len(shape) != 4:
            return "only images are rearranged"
    except ValueError as error:
        return str(error)
    if node.op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze") and prod(shape) != prod(out):
        return "it mixes the batch axis with others"
    return ""
