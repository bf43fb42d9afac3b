"""Bounds that cannot be kept: named, with the nearest selection that can be had."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lpcompile.assignment.choice_table import read
from lpcompile.assignment.pareto import F64
from lpcompile.assignment.problem import Choice, Item, Solution, every_item
from lpcompile.assignment.swaps import descend
from lpcompile.errors import BudgetError

_ROUNDS = 60
_SEARCHES = 24
_CLOSE = 1e-4  # relative excess at which halving ends and the last search asks for anything better

Find = Callable[[Sequence[Item], Mapping[str, float]], Solution | None]


def check_bounds(items: Sequence[Item], bounds: Mapping[str, float]) -> None:
    """Raise BudgetError for a bound that is negative, not a number, or on something that no choice costs."""
    known = {name for item in every_item(items) for choice in item.choices for name in choice.costs}
    for name, bound in bounds.items():
        if math.isnan(bound) or bound < 0:
            raise BudgetError(f"the bound on {name} is {bound:g}", hint="a bound is a number of at least 0")
        if items and name not in known:
            raise BudgetError(
                f"no choice costs {name}", hint=f"bounded can be {', '.join(sorted(known)) or 'nothing'}"
            )


def reach(items: Sequence[Item], name: str) -> tuple[float, float]:
    """The least and the most that a cost can sum up to."""
    table, _ = read(items, (name,))
    most = -table.best(-table.cost[:, 0])[1]
    return float(table.base_cost[0]), float(table.base_cost[0]) + most


def one_bound_missed(name: str, bound: float, least: float, what: str = "the least") -> BudgetError:
    """The error for a bound below everything, or below what a rule starts from."""
    return BudgetError(
        f"{name} cannot be brought to {bound:g}: {what} is {least:.6g}",
        hint=f"ask for {name} of {least:.6g} or more, or allow smaller formats",
        nearest={name: least},
    )


def combined_bounds_missed(
    items: Sequence[Item], bounds: Mapping[str, float], find: Find, *, proven: bool = True
) -> BudgetError:
    """The error for bounds that can be kept one by one but not together.

    Args:
        items: the problem.
        bounds: those asked for.
        find: a selection within other bounds, None without any.
        proven: False when a search ended without a selection.
    """
    return bounds_missed(nearest(items, bounds, find), bounds, proven=proven)


def bounds_missed(
    values: Mapping[str, float], bounds: Mapping[str, float], *, proven: bool = True
) -> BudgetError:
    """The error for several bounds and the values of the nearest selection, in any units."""
    excess = {n: values[n] / b - 1 if b > 0 else math.inf for n, b in bounds.items() if values[n] > b}
    worst = max(excess, key=lambda n: excess[n], default=next(iter(bounds)))
    words = ", ".join(f"{n}={values[n]:.6g} (asked {b:g})" for n, b in bounds.items())
    how = "cannot be kept together" if proven else "were not met together by any selection found"
    return BudgetError(
        f"the bounds {how}; nearest: {words}",
        hint=f"loosen {worst} most of all, it is exceeded by {excess.get(worst, 0.0):.3%}",
        nearest=values,
    )


def nearest(items: Sequence[Item], bounds: Mapping[str, float], find: Find) -> dict[str, float]:
    """What the bounded costs sum up to in the selection of least relative excess over the worst bound.

    A bound of 0 is measured by the most that its cost can be. The excess is bracketed and halved until no selection
    has less; when that takes more than a few searches it is the least found.
    """
    names = tuple(bounds)
    table, _ = read(sorted(items, key=lambda i: i.name), names)
    asked = np.array([bounds[n] for n in names])
    most = np.array([-table.best(-c)[1] for c in table.cost.T]) + table.base_cost
    scale = np.where(asked > 0, asked, np.where(most > 0, most, 1.0))
    weight = np.full(len(names), 1.0 / len(names))
    best, high = None, np.inf

    def worst(_: F64, cost: F64) -> F64:
        return np.asarray(((cost + table.base_cost - asked) / scale).max(1))

    for _ in range(_ROUNDS):  # what is exceeded more than the others gets dearer
        picks, _ = table.best(table.cost @ (weight / scale))
        excess = (picks.cost + table.base_cost - asked) / scale
        if excess.max() < high:
            best, high = picks, float(excess.max())
        weight = weight * np.exp(2.0 * (excess - excess.max()) / max(1e-12, float(np.ptp(excess))))
        weight /= weight.sum()
    assert best is not None
    total = descend(table, best, worst).cost + table.base_cost
    low, high = 0.0, float(((total - asked) / scale).max())
    priced = _priced(items, dict(zip(names, scale.tolist(), strict=True)))
    for _ in range(_SEARCHES):
        last = high - low <= _CLOSE * (1 + high)
        middle = high - _CLOSE**2 * (1 + high) if last else (low + high) / 2
        limits = (asked + middle * scale).tolist()
        found = find(priced, dict(zip(names, limits, strict=True)))
        if found is None:
            if last:
                break
            low = middle
        else:
            total = np.array([found.costs[n] for n in names])
            high = float(((total - asked) / scale).max())
    return dict(zip(names, map(float, total), strict=True))


def _priced(items: Sequence[Item], scale: Mapping[str, float]) -> list[Item]:
    """The same choices with the sum of their scaled costs for a loss."""

    def choice(c: Choice) -> Choice:
        costs = {n: c.costs.get(n, 0.0) for n in scale}
        return Choice(c.label, sum(v / scale[n] for n, v in costs.items()), costs, _priced(c.members, scale))

    return [Item(item.name, [choice(c) for c in item.choices]) for item in items]
