"""Which tensors share scale and zero point.

Codes that only move keep their scale, so tensors between which nothing computes form one group. A Concat
may join the groups of its operands as well, or requantise one of them; an Identity likewise. Let joining make an
operand's step r times as wide. Joined, the operand's readers and the Concat's see a noise of r^2 units each, 2 r^2
together; apart, the operand's see 1 and the Concat's 1 + r^2. So joining is better up to r = sqrt(2), and always
where the Concat alone reads the operand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.analysis.affine import Range

MOST_WIDENING = 2.0**0.5
OUTSIDE = ""  # stands for readers that are no nodes of the graph: its caller and control-flow bodies


@dataclass(frozen=True, slots=True)
class Join:
    """A Concat or an Identity on integers: its name, its data inputs and its output."""

    node: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class MoveGroup:
    """Tensors joined by moves and clamps alone.

    Attributes:
        members: in execution order.
        readers: names of the nodes that read a member, other than those moves; OUTSIDE where others do.
    """

    members: tuple[str, ...]
    readers: frozenset[str] = frozenset()


def tie_groups(
    groups: Sequence[MoveGroup], joins: Sequence[Join], ranges: Sequence[Range], levels: Sequence[int]
) -> list[list[int]]:
    """Which groups share a scale.

    Args:
        groups: in execution order.
        joins: in execution order.
        ranges: range that each group would take alone.
        levels: levels of the quantiser that each group would take alone; those that share take the fewest.

    Returns:
        Lists of indices into `groups`, each in order, and in order of their first.
    """
    index = {tensor: i for i, group in enumerate(groups) for tensor in group.members}
    shared = [[i] for i in range(len(groups))]  # group -> the list it is in, one object for all of them
    for join in joins:
        for tensor in join.inputs:
            one, other = shared[index[tensor]], shared[index[join.output]]
            if one is other:
                continue
            both = sorted(one + other)
            step = _step(both, ranges, levels)
            minding = [i for i in both if groups[i].readers != {join.node}]
            if all(_bears(step, _step([i], ranges, levels)) for i in minding):
                for i in both:
                    shared[i] = both
    return [s for i, s in enumerate(shared) if s[0] == i]


def union(ranges: Sequence[Range]) -> Range:
    """The smallest range that holds all of them."""
    return Range(min(r.low for r in ranges), max(r.high for r in ranges))


def _step(members: Sequence[int], ranges: Sequence[Range], levels: Sequence[int]) -> float:
    whole = union([ranges[i] for i in members])
    return (whole.high - whole.low) / (min(levels[i] for i in members) - 1)


def _bears(joint: float, own: float) -> bool:
    return own == 0 or joint <= MOST_WIDENING * own  # a tensor of zeros bears any step
