"""Steps of a generated network that move numbers about."""

import numpy as np

from tests.backends.cim.growing_network import SYMBOL, Growing


def _axis(g: Growing, x: str, least: int = 1) -> int | None:
    """An axis with at least so many indices, none that is symbolic."""
    found = [i for i, n in enumerate(g.shapes[x]) if not isinstance(n, str) and n >= least]
    return int(g.pick(*found)) if found else None


def _spelled(g: Growing, axis: int, rank: int) -> int:
    return axis - rank if g.chance(0.3) else axis


def concat(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None or (axis := _axis(g, x)) is None:
        return
    shape = g.shapes[x]
    others = [t for t, s in g.shapes.items() if len(s) == len(shape) and all(
        a == b for i, (a, b) in enumerate(zip(s, shape, strict=True)) if i != axis)]  # fmt: skip
    parts = [x, *(g.pick(*others) for _ in range(g.whole(1, 2)))]
    if g.chance(0.1) and isinstance(shape[0], int):
        parts.append(g.weight([int(n) for n in shape]))
    g.rng.shuffle(parts)
    g.node("Concat", parts, axis=_spelled(g, axis, len(shape)))


def split(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None or (axis := _axis(g, x, 2)) is None:
        return
    n = int(g.shapes[x][axis])
    first = g.whole(1, n - 1)
    parts = [first, n - first]
    if g.chance(0.3) and n % 2 == 0 and g.opset < 18:
        g.node("Split", [x], 2, axis=axis)
    elif g.opset >= 13:
        g.node("Split", [x, g.integers(*parts)], 2, axis=_spelled(g, axis, len(g.shapes[x])))
    else:
        g.node("Split", [x], 2, axis=axis, split=parts)


def slice_(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None or (axis := _axis(g, x, 2)) is None:
        return
    n = int(g.shapes[x][axis])
    start, step = g.whole(0, n - 2), g.pick(1, 1, 2, 3)
    stop = g.pick(n, g.whole(start + 1, n), 2**31, -1)
    if g.chance(0.1):
        start, stop, step = n - 1, -(2**31), -1
    axes = g.integers(_spelled(g, axis, len(g.shapes[x])))
    g.node("Slice", [x, g.integers(start), g.integers(stop), axes, g.integers(step)])


def transpose(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None:
        return
    rank = len(g.shapes[x])
    symbolic = isinstance(g.shapes[x][0], str)
    axes = g.rng.permutation(np.arange(1 if symbolic else 0, rank)).tolist()
    g.node("Transpose", [x], perm=[0, *axes] if symbolic else axes)


def reshape(g: Growing) -> None:
    x = g.tensor()
    if x is None:
        return
    shape = g.shapes[x]
    if g.chance(0.4) and len(shape) > 1:
        g.node("Flatten", [x], axis=1 if isinstance(shape[0], str) else g.pick(1, 1, 0, 2 % len(shape), -1))
        return
    first, rest = shape[0], int(np.prod([int(n) for n in shape[1:]]))
    left, parts = rest, []
    for _ in range(g.whole(0, 3)):
        divisors = [d for d in range(1, left + 1) if left % d == 0]
        parts.append(int(g.pick(*divisors)))
        left //= parts[-1]
    parts.append(left)
    lead = 0 if g.chance(0.5) else (-1 if isinstance(first, str) else int(first))
    g.node("Reshape", [x, g.integers(lead, *parts)])


def squeeze(g: Growing) -> None:
    x = g.tensor()
    if x is None:
        return
    shape = g.shapes[x]
    ones = [i for i, n in enumerate(shape) if n == 1 and i]
    if ones and len(shape) > 2 and g.chance(0.7):
        op, axis = "Squeeze", int(g.pick(*ones))
    else:
        op, axis = "Unsqueeze", g.whole(1, len(shape))
        if len(shape) >= 5:
            return
    if g.opset >= 13:
        g.node(op, [x, g.integers(axis)])
    else:
        g.node(op, [x], axes=[axis])


def pad(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None or (axis := _axis(g, x)) is None:
        return
    rank = len(g.shapes[x])
    pads = [0] * 2 * rank
    for i in {axis, g.pick(*range(1, rank))}:
        pads[i], pads[rank + i] = g.whole(0, 2), g.whole(0, 2)
    if isinstance(g.shapes[x][0], str):
        pads[0] = pads[rank] = 0
    if g.chance(0.1):
        pads[-1] = -1
    value = [g.constant(np.array(g.pick(0.0, 0.0, 0.5, -1.0), np.float32))] if g.chance(0.5) else []
    mode = g.pick(None, None, None, "constant", "edge")
    g.node("Pad", [x, g.integers(*pads), *([] if mode == "edge" else value)], mode=mode)


def resize(g: Growing) -> None:
    x = g.tensor(3, 4, 5)
    if x is None:
        return
    spatial = len(g.shapes[x]) - 2
    scales = g.constant(np.array([1, 1, *(g.pick(1.0, 2.0, 3.0, 1.5) for _ in range(spatial))], np.float32))
    roi = g.constant(np.zeros(0, np.float32)) if g.opset < 13 else ""
    how = g.pick("asymmetric", "asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    rounding = g.pick("floor", "floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
    mode = g.pick("nearest", "nearest", "nearest", "nearest", "linear")
    g.node("Resize", [x, roi, scales], mode=mode, coordinate_transformation_mode=how, nearest_mode=rounding)


def depth(g: Growing) -> None:
    x = g.tensor(4)
    if x is None:
        return
    c, h, w = (int(n) for n in g.shapes[x][1:])
    if c % 4 == 0:
        g.node("DepthToSpace", [x], blocksize=2, mode=g.pick(None, "CRD", "DCR"))
    elif h % 2 == 0 and w % 2 == 0:
        g.node("SpaceToDepth", [x], blocksize=2)


def gather(g: Growing) -> None:
    x = g.tensor(2, 3, 4, 5)
    if x is None or (axis := _axis(g, x)) is None:
        return
    n = int(g.shapes[x][axis])
    count = g.whole(1, n)
    indices = g.pick(
        g.rng.integers(-n, n, count),
        np.arange(0, n, g.whole(1, 2)),
        np.array(g.whole(0, n - 1)),
        g.rng.integers(0, n, (1, count)),
    )
    g.node("Gather", [x, g.constant(np.asarray(indices, np.int64))], axis=_spelled(g, axis, len(g.shapes[x])))


def tile(g: Growing) -> None:
    x = g.tensor(2, 3, 4)
    if x is None:
        return
    shape = g.shapes[x]
    repeats = [1] + [g.pick(1, 2) for _ in shape[1:]]
    if g.chance(0.5) or SYMBOL in shape:
        g.node("Tile", [x, g.integers(*repeats)])
    else:
        wanted = [int(n) if n != 1 else r for n, r in zip(shape, repeats, strict=True)]
        g.node("Expand", [x, g.integers(*wanted)])


MOVING = (
    concat,
    concat,
    split,
    slice_,
    transpose,
    reshape,
    reshape,
    squeeze,
    pad,
    resize,
    depth,
    gather,
    tile,
)
