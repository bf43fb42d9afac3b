"""How long the exact assignment takes, on instances of growing difficulty, one thread; the worst of twenty seeds."""

import statistics
import time

import numpy as np

from lpcompile.assignment.greedy import assign
from lpcompile.assignment.knapsack import solve
from lpcompile.assignment.problem import Item
from tests.assignment.problems import NAMES, between, layers
from tests.bench.bench_table import Bench, Table

SIZES = ((200, 12), (500, 60))
BOUNDS = (1, 3)
KINDS = ("sensitivity", "integer", "uncorrelated", "correlated", "straight")
SEEDS = 20
SHARES = (0.25, 0.5)  # of the way from the least to the most of each cost
HEADER = ("layers", "formats", "bounds", "losses", "median ms", "worst ms", "proven", "largest gap",
          "saved on ratio-greedy")  # fmt: skip


def measure(bench: Bench) -> Table:
    """One row a size, number of bounds and kind of loss; seconds of this thread alone."""
    made = Table("exact multiple-choice knapsack", HEADER)
    seeds = 2 if bench.quick else SEEDS
    for (count, formats), bounds, kind in (
        (s, b, k) for s in (SIZES[:1] if bench.quick else SIZES) for b in BOUNDS for k in KINDS
    ):
        times, gaps, saved = [], [], []
        for seed in range(seeds):
            items = layers(seed, count, formats, bounds, kind)
            shares = np.random.default_rng(seed).uniform(*SHARES, bounds).tolist()
            asked = between(items, dict(zip(NAMES, shares, strict=False)))
            start = time.thread_time()
            found = solve(items, asked)
            times.append(1e3 * (time.thread_time() - start))
            gaps.append(found.gap)
            saved.append(1 - found.loss / two_formats(items, asked))
        made.rows.append(
            (count, formats, bounds, kind, round(statistics.median(times)), round(max(times)),
             f"{gaps.count(0)}/{seeds}", f"{max(gaps):.1e}", f"{statistics.median(saved):.1%}")
        )  # fmt: skip
    made.notes.append(
        "ratio-greedy chooses between the cheapest and the best of each layer; bounds at 25 to 50 % of the way"
    )
    return made


def two_formats(items: list[Item], asked: dict[str, float]) -> float:
    """Loss of the rule between the choice of each item that costs least and the one that loses least."""
    renamed = []
    for item in items:
        cheapest = min(item.choices, key=lambda c: sum(c.costs[n] / b for n, b in asked.items()))
        best = min(item.choices, key=lambda c: c.loss)
        labelled = [(cheapest, "base"), (best, "upgrade")]
        renamed.append(Item(item.name, [type(c)(label, c.loss, c.costs) for c, label in labelled]))
    return assign(renamed, asked, "ratio-greedy", base="base", upgrade="upgrade").loss
