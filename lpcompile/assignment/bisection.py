"""The least budget whose measured result still keeps a bound, in few measurements.

Regula falsi on the logarithm of the result (losses fall about exponentially with the bits), kept inside the bracket
and replaced by halving when it stalls (the Illinois rule, Dowell and Jarratt 1971).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lpcompile.errors import BudgetError

_EDGE = 0.1  # share of the bracket that a guess keeps away from its ends


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measurement.

    Attributes:
        budget: what was tried.
        value: what was measured; 0 or 1 where the measurement only says yes (0) or no (1).
        ok: does it keep the bound?
    """

    budget: float
    value: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Bisection:
    """What was found.

    Attributes:
        result: the least budget that was measured to keep the bound.
        evaluations: every measurement, in order.
        bracket: the largest budget below it that was measured to miss the bound, and the result.
        notes: that measurements ran out, or that a larger budget did worse than a smaller one.
    """

    result: float
    evaluations: tuple[Evaluation, ...]
    bracket: tuple[float, float]
    notes: tuple[str, ...] = ()


def fewest(
    evaluate: Callable[[float], bool | float],
    low: float,
    high: float,
    *,
    resolution: float,
    most_evaluations: int = 12,
    bound: float = 0.0,
    name: str = "budget",
) -> Bisection:
    """The least budget that keeps a bound, to a resolution.

    Args:
        evaluate: budget -> does it keep the bound (bool), or a measured loss (float) that must be at most `bound`; a
            loss that is not a number keeps none. Called once a budget.
        low: the least budget to try.
        high: the largest.
        resolution: budgets closer than this are not told apart.
        most_evaluations: at least 2.
        bound: the most the measured loss may be.
        name: of the budget, for messages.

    Raises:
        BudgetError: `high` does not keep the bound; `nearest` holds the budget and the measured value of the best try.
        ValueError: the range, the resolution or the number of evaluations makes no sense.
    """
    if not (low <= high and resolution > 0 and most_evaluations >= 2):
        raise ValueError(f"from {low} to {high} by {resolution} in {most_evaluations} evaluations")
    return _Bracket(evaluate, bound, name, most_evaluations).run(low, high, resolution)


class _Bracket:
    def __init__(self, evaluate: Callable[[float], bool | float], bound: float, name: str, most: int) -> None:
        self.evaluate, self.bound, self.name, self.most = evaluate, bound, name, most
        self.seen: dict[float, Evaluation] = {}
        self.binary = False

    def at(self, budget: float) -> Evaluation:
        if budget not in self.seen:
            value = self.evaluate(budget)
            if isinstance(value, bool | np.bool_):
                self.binary = True
                made = Evaluation(budget, 0.0 if value else 1.0, bool(value))
            else:
                made = Evaluation(budget, float(value), float(value) <= self.bound)  # NaN keeps nothing
            self.seen[budget] = made
        return self.seen[budget]

    def run(self, low: float, high: float, resolution: float) -> Bisection:
        top, bottom = self.at(high), self.at(low)
        if bottom.ok:
            return self.found(bottom, bottom, resolution)
        if not top.ok:
            raise self.missed(top, bottom)
        weights, last = [1.0, 1.0], 0  # of the bottom and the top end, by the Illinois rule
        while top.budget - bottom.budget > resolution and len(self.seen) < self.most:
            tried = self.at(self.guess(bottom, top, weights, resolution))
            if tried.ok:
                top, side = tried, 1
                weights = [weights[0] / 2 if last == 1 else 1.0, 1.0]
            else:
                bottom, side = tried, -1
                weights = [1.0, weights[1] / 2 if last == -1 else 1.0]
            last = side
        return self.found(bottom, top, resolution)

    def guess(self, bottom: Evaluation, top: Evaluation, weights: list[float], resolution: float) -> float:
        """Where the logarithm of the loss should cross the bound's."""
        width = top.budget - bottom.budget
        share = 0.5
        above, below = self.height(bottom.value), self.height(top.value)
        if not self.binary and above > 0 >= below and math.isfinite(above) and math.isfinite(below):
            a, b = above * weights[0], -below * weights[1]
            share = a / (a + b) if a + b > 0 else 0.5
        edge = min(0.5, max(_EDGE, 0.5 * resolution / width))
        share = min(max(share, edge), 1 - edge)
        return bottom.budget + share * width

    def height(self, value: float) -> float:
        """How far a loss is from the bound; in logarithms where both are above 0."""
        if self.bound > 0:
            return math.log(max(value, 1e-3 * self.bound) / self.bound)
        return value - self.bound

    def found(self, bottom: Evaluation, top: Evaluation, resolution: float) -> Bisection:
        notes = []
        if top.budget - bottom.budget > resolution:
            notes.append(
                f"stopped after {self.most} measurements: "
                f"the least {self.name} lies between {bottom.budget:g} and {top.budget:g}"
            )
        for a, b in pairwise(self.seen[budget] for budget in sorted(self.seen)):
            if b.value > a.value or (a.ok and not b.ok):
                less, more = f"{self.name}={a.budget:g}", f"{self.name}={b.budget:g}"
                notes.append(f"not monotonic: {less} gave {a.value:.6g}, {more} gave {b.value:.6g}")
        return Bisection(top.budget, tuple(self.seen.values()), (bottom.budget, top.budget), tuple(notes))

    def missed(self, top: Evaluation, bottom: Evaluation) -> BudgetError:
        best = min((top, bottom), key=lambda e: (math.isnan(e.value), e.value, e.budget))
        got = "does not" if self.binary else f"gives {best.value:.6g} and does not"
        return BudgetError(
            f"even {self.name}={best.budget:g} {got} keep the bound"
            + ("" if self.binary else f" of {self.bound:g}"),
            hint=f"loosen the bound, or allow a larger {self.name}",
            nearest={self.name: best.budget, "value": best.value},
        )
