"""Which of many points no other point beats in loss and in every cost."""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ROUNDING = 1e-12  # relative difference of losses that is not told apart
_PAIRS = 1 << 22  # comparisons made at once
_FULL = 1024  # above it points of two and more costs are only compared with the best ones
_BEST = 64


def within(cost: F64, room: F64) -> Mask:
    """Which of (K, D) costs keep all of the (D,) bounds, (K,)."""
    fits = np.ones(len(cost), bool)
    for column, most in zip(
        cost.T, room, strict=True
    ):  # the last axis is short: column by column is much faster
        fits &= column <= most
    return fits


def undominated(loss: F64, cost: F64) -> I64:
    """Indices of points that no other beats or equals, ascending by loss; the first of equal points stays.

    With two or more costs and many points some beaten ones may stay; none that is needed is ever left out.

    Args:
        loss: (K,).
        cost: (K, D).
    """
    dims = cost.shape[1]
    if len(loss) < 2:
        return np.arange(len(loss))
    if dims == 0:
        return np.array([np.argmin(loss)])
    if dims == 1:
        order = np.lexsort((loss, cost[:, 0]))
        falling = np.minimum.accumulate(loss[order])
        better = np.concatenate([[True], falling[1:] < falling[:-1]])
        front: I64 = order[better][::-1]
        return front
    order = np.lexsort((*cost.T, loss))
    kept = cost[order]
    beaten = np.zeros(len(order), bool)
    best = len(order) if len(order) <= _FULL else _BEST
    step = max(1, _PAIRS // len(order))
    for a in range(0, best, step):
        b = min(best, a + step)
        below = np.ones((b - a, len(order)), bool)
        for k in range(dims):
            below &= kept[a:b, k, None] <= kept[None, :, k]
        below &= np.arange(a, b)[:, None] < np.arange(len(order))[None, :]
        beaten |= below.any(0)
    return order[~beaten]


def lower_hull(cost: F64, loss: F64) -> I64:
    """Indices of the lower convex hull's falling part, from the least cost to the least loss.

    Args:
        cost: (K,).
        loss: (K,).
    """
    front = undominated(loss, cost[:, None])[::-1]
    hull: list[int] = []
    x, y = cost[front].tolist(), loss[front].tolist()
    for i in range(len(front)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[a] - y[b]) * (x[i] - x[b]) > (y[b] - y[i]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return front[hull]
