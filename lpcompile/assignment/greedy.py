"""Rules that go through the items once: the paper's order and the order of loss saved per cost.

`paper-greedy` takes items by what they save, s = loss(base) - loss(upgrade), the largest first, as long as the bounds
allow; an item that does not fit is passed over. `ratio-greedy` goes by s over the share of the bounds that the
upgrade uses. Neither is ever taken for s <= 0. Both can miss the best selection.  [mixed-posit 2.8, 6.6]
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from lpcompile.assignment.infeasible import check_bounds, one_bound_missed
from lpcompile.assignment.problem import Choice, Item, Solution, check_items, sums
from lpcompile.errors import PassError

Rule = Literal["paper-greedy", "ratio-greedy"]
RULES: tuple[str, ...] = get_args(Rule)


def assign(
    items: Sequence[Item], bounds: Mapping[str, float], rule: Rule, *, base: str, upgrade: str
) -> Solution:
    """Give the upgrade to the items that a rule picks, the base to all others.

    Args:
        items: none with members. One without a choice labelled `upgrade` stays at the base; one without `base` takes
            its first choice and is left there.
        bounds: the most a sum of costs may be, by name.
        rule: "paper-greedy" or "ratio-greedy".
        base: label of the choice to start from ("fixp4").
        upgrade: label of the choice to go to ("posit4").

    Returns:
        The selection; its lower bound is that of any selection of one choice an item, whatever it costs.

    Raises:
        BudgetError: the base alone exceeds a bound.
        PassError: an item has members or no choice, or a loss or cost is negative or not finite.
    """
    check_items(items)
    check_bounds(items, bounds)
    if any(choice.members for item in items for choice in item.choices):
        raise PassError(f"{rule} decides items without members only")
    taken: dict[str, Choice] = {}
    candidates: list[tuple[float, str, Choice]] = []
    for item in items:
        by_label = {c.label: c for c in item.choices}
        taken[item.name] = old = by_label.get(base, item.choices[0])
        new = by_label.get(upgrade)
        saved = old.loss - new.loss if new is not None else 0.0
        if new is not None and old.label == base and saved > 0:
            rank = saved if rule == "paper-greedy" else _per_cost(saved, old, new, bounds)
            candidates.append((rank, item.name, new))
    used = sums(taken.values())[1]
    for name, bound in bounds.items():
        if used.get(name, 0.0) > bound:
            raise one_bound_missed(name, bound, used.get(name, 0.0), what=f"{base} alone")
    for _, name, new in sorted(candidates, key=lambda c: -c[0]):  # stable: equals in the order of the items
        trial = sums({**taken, name: new}.values())[1]
        if all(trial.get(n, 0.0) <= bound for n, bound in bounds.items()):
            taken[name] = new
    loss, costs = sums(taken.values())
    lower = math.fsum(min(c.loss for c in item.choices) for item in items)
    return Solution({n: c.label for n, c in taken.items()}, loss, costs, min(lower, loss), method=rule)


def _per_cost(saved: float, old: Choice, new: Choice, bounds: Mapping[str, float]) -> float:
    more = sum(
        (new.costs.get(n, 0.0) - old.costs.get(n, 0.0)) / bound if bound > 0 else 0.0
        for n, bound in bounds.items()
    )
    return saved / more if more > 0 else math.inf
