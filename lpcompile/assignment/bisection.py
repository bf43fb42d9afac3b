"""The least budget whose measured result keeps all bounds, in few measurements.

What is measured is about linear in the predicted loss: noise power adds, and a metric that flips either way loses with
the power of the noise. So the predicted loss of each budget is the axis on which two measurements are joined by a line
(regula falsi); where that stalls, the bracket is halved. An end that has not been measured is reached for only when the
line leads there.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DIGITS = 4  # of budgets that are tried
STALLED = 2  # steps in which the bracket should have halved
NEARLY = 2.0  # excess of the largest budget


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a budget is predicted to lose, linear between points.

    Attributes:
        budgets: ascending.
        losses: of them, falling.
    """

    budgets: Sequence[float]
    losses: Sequence[float]

    def loss(self, budget: float) -> float:
        """Of a budget; outside the points that of the nearest."""
        return float(np.interp(budget, self.budgets, self.losses))

    def budget(self, loss: float) -> float:
        """The least budget that is predicted to lose no more; the nearest point where none is."""
        return float(np.interp(-loss, [-x for x in self.losses], self.budgets))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measurement.

    Attributes:
        budget: what was allowed.
        used: what was taken of it, at most `budget`.
        excess: by bound, what was measured over what is allowed, in a measure linear in the loss; at most 1 keeps it.
    """

    budget: float
    used: float
    excess: Mapping[str, float]

    @property
    def ok(self) -> bool:
        """Whether all bounds are kept; not a number keeps none."""
        return all(x <= 1.0 for x in self.excess.values())

    @property
    def misses(self) -> set[str]:
        """Bounds that are not kept."""
        return {name for name, x in self.excess.items() if not x <= 1.0}

    @property
    def worst(self) -> float:
        """The largest excess."""
        return max((math.inf if math.isnan(x) else x for x in self.excess.values()), default=0.0)


@dataclass(frozen=True, slots=True)
class Bisection:
    """What was found.

    Attributes:
        result: the measurement of the least budget that keeps the bounds; None where even the largest misses one.
        evaluations: every new measurement, in order.
        bracket: a budget below which nothing keeps the bounds as far as is known, and what the result uses.
        notes: that measurements ran out.
    """

    result: Evaluation | None
    evaluations: tuple[Evaluation, ...]
    bracket: tuple[float, float]
    notes: tuple[str, ...] = ()


def fewest(
    evaluate: Callable[[float], Evaluation],
    low: float,
    high: float,
    prediction: Callable[[], Prediction],
    *,
    first: float,
    slopes: Mapping[str, float] | None = None,
    known: Sequence[Evaluation] = (),
    resolution: float,
    most_evaluations: int,
    name: str = "budget",
    by_chance: Collection[str] = (),
) -> Bisection:
    """The least budget that keeps all bounds, to a resolution.

    Args:
        evaluate: measures a budget. Budgets between what it used and what it was allowed count as measured by it.
        low: no budget below this is tried.
        high: the largest, tried first: if it misses a bound, the search ends.
        prediction: of the losses; asked for after the first measurement.
        first: what to try second, where no slope is known.
        slopes: excess over predicted loss, of bounds of which it is known beforehand.
        known: what was measured before, and is not measured again.
        resolution: budgets closer than this are not told apart.
        most_evaluations: at least 2; those known do not count.
        name: of the budget, for notes.
        by_chance: bounds that few samples may miss by chance: where `high` nearly keeps them, `first` is tried, too.

    Raises:
        ValueError: the range, the resolution or the number of evaluations makes no sense.
    """
    if not (low <= high and resolution > 0 and most_evaluations >= 2):
        raise ValueError(f"from {low} to {high} by {resolution} in {most_evaluations} evaluations")
    held = {e.budget: e for e in known}
    seen = [] if high in held else [evaluate(high)]
    held |= {e.budget: e for e in seen}
    top = held[high]
    if not top.ok and top.misses <= set(by_chance) and top.worst <= NEARLY and low <= first < high:
        if first not in held:
            seen.append(evaluate(first))
            held[first] = seen[-1]
        top = held[first]
    if not top.ok:
        return Bisection(None, tuple(seen), (high, high))
    predicted = prediction()
    search = _Search(max(low, predicted.budgets[0]), predicted, first, slopes or {}, resolution, top)
    search.start([e for e in held.values() if e.budget <= top.budget])
    while search.width > resolution and len(seen) < most_evaluations:
        seen.append(evaluate(search.guess()))
        search.take(seen[-1])
    notes = []
    if search.width > resolution:
        tried = len(known) + len(seen)
        notes.append(
            f"stopped after {tried} evaluations: the least {name} lies between {search.edge:g} and "
            f"{search.top.used:g}"
        )
    return Bisection(search.top, tuple(seen), (search.edge, search.top.used), tuple(notes))


class _Search:
    def __init__(
        self,
        low: float,
        predicted: Prediction,
        first: float,
        slopes: Mapping[str, float],
        resolution: float,
        top: Evaluation,
    ) -> None:
        self.low, self.predicted, self.first = low, predicted, first
        self.slopes, self.resolution = slopes, resolution
        self.top, self.above = top, None  # type: Evaluation, Evaluation | None
        self.bottom: Evaluation | None = None
        self.widths = [self.width]

    @property
    def edge(self) -> float:
        """Nothing at or below it is known to keep the bounds."""
        return self.low if self.bottom is None else self.bottom.budget

    @property
    def width(self) -> float:
        """Of what is not known."""
        at_low = self.bottom is None and self.top.used <= self.low * (1 + 1e-9)
        return 0.0 if at_low else max(0.0, self.top.used - self.edge)

    def start(self, known: Sequence[Evaluation]) -> None:
        """Between the largest budget that is known to miss a bound, and the least above it that keeps them."""
        missed = [e for e in known if not e.ok]
        self.bottom = max(missed, key=lambda e: e.budget, default=None)
        kept = sorted((e for e in known if e.ok and e.used > self.edge - 1e-9), key=lambda e: e.used)
        if kept:
            self.top, self.above = kept[0], kept[1] if len(kept) > 1 else None
        self.widths = [self.width]

    def take(self, tried: Evaluation) -> None:
        if tried.ok:
            self.top, self.above = tried, self.top
        else:
            self.bottom = tried
        self.widths.append(self.width)

    def guess(self) -> float:
        """Where the lines cross 1, away from what is known."""
        stalled = len(self.widths) > STALLED and self.widths[-1] > self.widths[-1 - STALLED] / 2
        wanted = (self.edge + self.top.used) / 2 if stalled else self.crossing()
        low, high, step = self.edge, self.top.used, self.resolution
        up = step if self.bottom is None else max(step, self.bottom.budget - self.bottom.used)  # over a gap
        if high - low <= step + up:
            wanted = low if self.bottom is None else (low + high) / 2
        elif wanted >= high - step:
            wanted = high - step
        elif wanted <= low + up:
            wanted = low if self.bottom is None else low + up
        if self.bottom is None and wanted <= low + step / 2:
            wanted = low
        return float(math.ceil(wanted * 10**DIGITS) / 10**DIGITS)  # the least budget itself must be allowed

    def crossing(self) -> float:
        """The least budget at which all lines are below 1."""
        return max((self.crossing_of(name) for name in self.top.excess), default=self.edge)

    def crossing_of(self, name: str) -> float:
        y, x = self.top.excess[name], self.predicted.loss(self.top.used)
        other = self.above if self.bottom is None else self.bottom
        if other is None:
            slope = self.slopes.get(name)
            if slope is None:
                return self.first
        else:
            rise, run = other.excess[name] - y, self.predicted.loss(other.budget) - x
            if not math.isfinite(rise) or run == 0:
                return (self.edge + self.top.used) / 2
            slope = rise / run
        if slope <= 0:
            return self.edge
        return self.predicted.budget(x + (1 - y) / slope)
