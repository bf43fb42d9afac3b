"""The knapsack with its bounds priced instead of kept: a lower bound, the prices, and selections near the optimum.

The Lagrangian dual max_{p >= 0} min_x loss(x) + p (cost(x) - bound) is the linear program over mixtures of
selections; its simplex basis has one row a bound and one for the mixture, and the column that enters is the
selection that is best at the prices of the basis (Dantzig, Wolfe 1960).
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.assignment.choice_table import ChoiceTable, Picks
from lpcompile.assignment.pareto import F64

_MOST = 3000
_PRECISION = 1e-11


@dataclass(frozen=True)
class Relaxation:
    """What the relaxed problem says.

    Attributes:
        prices: (D,) loss a unit of each bounded cost is worth; at least 0.
        lower_bound: of the loss above the table's base, for every selection within the bounds.
        seen: selections met on the way, without repeats.
        excess: the least relative excess any mixture of selections has; above 0 no selection keeps the bounds.
    """

    prices: F64
    lower_bound: float
    seen: tuple[Picks, ...]
    excess: float = 0.0


def relax(table: ChoiceTable, room: F64) -> Relaxation:
    """Solve the relaxed problem.

    Args:
        table: the choices.
        room: (D,) the bounds above the table's base cost, all above 0.
    """
    dims = len(room)
    free, least = table.best(table.loss)
    if (free.cost <= room).all():
        return Relaxation(np.zeros(dims), least, (free,))
    start, _ = table.best((table.cost / room).sum(1))
    return _Simplex(table, room, [free, start]).solve()


class _Simplex:
    """Columns are (cost / room, 1) of selections, unit vectors of slack, and the excess (-1 in all bounds)."""

    def __init__(self, table: ChoiceTable, room: F64, seen: list[Picks]) -> None:
        self.table, self.room, self.dims = table, room, len(room)
        self.scaled = table.cost / room
        self.seen: dict[bytes, Picks] = {s.choices.tobytes(): s for s in seen}
        start = seen[-1]
        self.columns = [self.column(start)]  # of the basis
        self.losses = [start.loss]
        worst = int(np.argmax(start.cost / room))
        self.short = bool((start.cost > room).any())  # is the excess in the basis?
        for k in range(self.dims):
            self.columns.append(self.excess() if self.short and k == worst else np.eye(self.dims + 1)[k])
            self.losses.append(0.0)
        self.at = 1 + worst  # where the excess stands
        self.bound, self.prices = 0.0, np.zeros(self.dims)

    def column(self, picks: Picks) -> F64:
        return np.append(picks.cost / self.room, 1.0)

    def excess(self) -> F64:
        return np.append(-np.ones(self.dims), 0.0)

    def solve(self) -> Relaxation:
        if self.short:
            excess = self.run(feasibility=True)
            if excess > 1e-9:
                return Relaxation(self.prices, 0.0, tuple(self.seen.values()), excess)
        self.run(feasibility=False)
        return Relaxation(self.prices / self.room, self.bound, tuple(self.seen.values()))

    def run(self, *, feasibility: bool) -> float:
        """Pivot until no column helps; the objective."""
        right = np.ones(self.dims + 1)
        stuck = 0
        for _ in range(_MOST):
            objective = np.zeros(self.dims + 1)
            if feasibility:
                objective[self.at] = 1.0
            else:
                objective[:] = self.losses
            basis = np.column_stack(self.columns)
            try:
                dual = np.linalg.solve(basis.T, objective)
                amounts = np.linalg.solve(basis, right)
            except np.linalg.LinAlgError:
                break
            value = float(objective @ amounts)
            price = -dual[:-1]
            scale = max(abs(value), float(price.sum()), 1e-300)
            cheapest = int(np.argmin(price))
            if price[cheapest] < -_PRECISION * scale:
                entering, loss = np.eye(self.dims + 1)[cheapest], 0.0
            else:
                price = np.maximum(price, 0.0)
                own = self.scaled @ price
                picks, least = self.table.best(own if feasibility else own + self.table.loss)
                self.seen.setdefault(picks.choices.tobytes(), picks)
                if feasibility:
                    self.prices = price
                elif least - price.sum() > self.bound:
                    self.bound, self.prices = least - float(price.sum()), price
                if least - dual[-1] >= -_PRECISION * scale:
                    return value
                entering, loss = self.column(picks), picks.loss
            step = np.linalg.solve(basis, entering)
            ratios = np.full(len(step), np.inf)
            up = step > 1e-12
            ratios[up] = np.maximum(amounts[up], 0.0) / step[up]
            leaving = int(np.argmin(ratios))
            if not np.isfinite(ratios[leaving]):
                break
            if feasibility and ratios[self.at] <= ratios[leaving] * (1 + 1e-12):
                leaving = self.at
            stuck = stuck + 1 if ratios[leaving] <= 0 else 0
            if stuck > 50:  # a cycle of pivots without progress: the bound found so far holds
                break
            self.columns[leaving], self.losses[leaving] = entering, loss
            if feasibility and leaving == self.at:
                return 0.0
        if feasibility:  # stopped by rounding: leave the excess at a loss that nothing else has
            self.losses[self.at] = 1e6 * (1.0 + float(self.table.loss.sum()))
        return 0.0
