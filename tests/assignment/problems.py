"""Random knapsacks and the ways to solve them that are too slow or too special for the product."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lpcompile.assignment.problem import Choice, Item

NAMES = ("bytes", "ace", "energy-pj")


def layers(seed: int, count: int, choices: int, bounds: int = 1, kind: str = "sensitivity") -> list[Item]:
    """Layers of very different sizes with formats of very different losses.

    Args:
        seed: of everything random.
        count: of layers.
        choices: formats a layer.
        bounds: how many of NAMES a format costs.
        kind: "sensitivity" (loss falls as 4**-bits), "integer" (the same, whole bits), "correlated" (loss is a
            straight line in the cost, with noise), "straight" (without: nearly a sum of subsets), "uncorrelated".
    """
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        size = int(10 ** rng.uniform(3, 6.5))
        macs = size * int(rng.integers(1, 200))
        bits = rng.integers(2, 9, choices) if kind == "integer" else rng.uniform(2, 8, choices)
        if kind in ("correlated", "straight"):
            noise = 0.05 * rng.normal(size=choices) if kind == "correlated" else 0.0
            loss = size * np.maximum(0.0, (8 - bits) * (1 + noise))
        elif kind == "uncorrelated":
            loss = rng.uniform(0, 1, choices)
        else:
            loss = 10 ** rng.uniform(-6, 0) * 4.0**-bits * np.exp(0.3 * rng.normal(size=choices))
        costs = (
            np.floor(size * bits / 8),
            np.floor(macs * bits * rng.integers(2, 9, choices)),
            macs * (1 + bits**2 * rng.uniform(0.5, 1.5, choices)),
        )
        made.append(
            Item(
                f"layer{i:04d}",
                [
                    Choice(
                        f"f{j}",
                        float(loss[j]),
                        {n: float(c[j]) for n, c in zip(NAMES[:bounds], costs, strict=False)},
                    )
                    for j in range(choices)
                ],
            )
        )
    return made


def between(items: Sequence[Item], shares: Mapping[str, float]) -> dict[str, float]:
    """Bounds at a share of the way from the least to the most of every cost (items without members)."""
    found = {}
    for name, share in shares.items():
        ends = [[c.costs[name] for c in item.choices] for item in items]
        low, high = sum(map(min, ends)), sum(map(max, ends))
        found[name] = low + share * (high - low)
    return found


def selections(items: Sequence[Item]) -> Iterator[tuple[Choice, ...]]:
    """Every selection, members included."""
    if not items:
        yield ()
        return
    for choice in items[0].choices:
        for inside in selections(choice.members):
            for rest in selections(items[1:]):
                yield (choice, *inside, *rest)


def exhaustive(items: Sequence[Item], bounds: Mapping[str, float]) -> float:
    """The least loss within the bounds, infinite when there is none."""
    return min(
        (
            math.fsum(c.loss for c in taken)
            for taken in selections(items)
            if all(math.fsum(c.costs.get(n, 0.0) for c in taken) <= b for n, b in bounds.items())
        ),
        default=math.inf,
    )


def least_excess(items: Sequence[Item], bounds: Mapping[str, float]) -> float:
    """The least that the worst bound is exceeded by, relative."""
    return min(
        max(sum(c.costs.get(n, 0.0) for c in taken) / b - 1 for n, b in bounds.items())
        for taken in selections(items)
    )


def by_capacity(items: Sequence[Item], name: str, bound: int) -> float:
    """The least loss for small whole costs of one name: one cell a capacity (Bellman)."""
    best = np.zeros(bound + 1)
    for item in items:
        grown = np.full(bound + 1, np.inf)
        for choice in item.choices:
            cost = int(choice.costs[name])
            if cost <= bound:
                grown[cost:] = np.minimum(grown[cost:], best[: bound + 1 - cost] + choice.loss)
        best = grown
    return float(best[-1])


def small(
    rng: np.random.Generator, depth: int, prefix: str = "", bounds: int = 2, count: int = 3
) -> list[Item]:
    """Few items with few choices, some of them with members; costs and losses with many ties and zeros."""
    made = []
    for i in range(count):
        name = f"{prefix}{i}"
        choices = []
        for j in range(int(rng.integers(1, 4))):
            loss = float(rng.choice([0.0, 1.0, 2.0, rng.uniform(0, 3), 10 ** rng.uniform(-9, 3)]))
            costs = {n: float(rng.choice([0.0, 1.0, 2.0, rng.uniform(0, 5)])) for n in NAMES[:bounds]}
            members: Sequence[Item] = ()
            if depth and rng.random() < 0.5:
                members = small(rng, depth - 1, f"{name}.{j}.", bounds, int(rng.integers(1, 3)))
            choices.append(Choice(f"c{j}", loss, costs, members))
        made.append(Item(name, choices))
    return made


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in another order."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[i] for i in order]


def all_labels(items: Sequence[Item], picked: Mapping[str, str]) -> tuple[Choice, ...]:
    """The choices a solution names, members included; every brought item must be named, and none besides."""
    found: list[Choice] = []
    for item in items:
        (choice,) = (c for c in item.choices if c.label == picked[item.name])
        found += [choice, *all_labels(choice.members, picked)]
    return tuple(found)
