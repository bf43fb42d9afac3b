"""Scale and zero point of tensors that share them, at any width, by one rule for all passes that ask.

Kept beside the plan, so that a pass that weighs fewer bits for a tie group gets what `quantize-activations` would have
planned at that width. [architecture 3.3, 4]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lpcompile.analysis.affine import Range, affine
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.ranges import find_range
from lpcompile.analysis.ties import MoveGroup, union
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan

LEVELS = {"uint8": 256, "uint4": 16}


@dataclass(frozen=True)
class ActivationRanges:
    """How the planned tensors of a graph get their ranges.

    Attributes:
        statistics: of every planned tensor.
        groups: tensors joined by moves and clamps alone, in execution order.
        rule: one of `ranges.RULES`, or "auto".
        percentile: of the rule of that name.
        narrowable: tensors that may take fewer than 8 bits: inputs of integer layers, ends apart.
    """

    statistics: Mapping[str, TensorStatistics]
    groups: Sequence[MoveGroup]
    rule: str = "auto"
    percentile: float = 99.99
    narrowable: frozenset[str] = frozenset()
    _found: dict[tuple[str, str, int], Range] = field(default_factory=dict)

    def rule_of(self, graph: LpGraph, members: Sequence[str], levels: int) -> str:
        """`auto`: 4 bits need least error; at 8, outliers that MatMul reads carry meaning: nothing is cut."""
        if self.rule != "auto":
            return self.rule
        if levels <= LEVELS["uint4"]:
            return "mse"
        readers = (n.op for t in members for n in graph.value(t).consumers)
        return "minmax" if "MatMul" in readers else "middle"

    def range_of(self, members: Sequence[str], rule: str, levels: int) -> Range:
        """What holds the range of each member."""
        return union([self._range(t, rule, levels) for t in members])

    def _range(self, tensor: str, rule: str, levels: int) -> Range:
        key = (tensor, rule, levels)
        if key not in self._found:
            self._found[key] = find_range(
                self.statistics[tensor], rule, levels=levels, percentile=self.percentile
            )
        return self._found[key]

    def planned(self, graph: LpGraph, together: Sequence[int], fmt: str) -> ActivationPlan:
        """The plan of all tensors of some groups that share scale and zero point.

        Args:
            graph: for the readers of tensors.
            together: indices into `groups`.
            fmt: one of LEVELS.
        """
        levels, members = LEVELS[fmt], [t for i in together for t in self.groups[i].members]
        rules = [self.rule_of(graph, self.groups[i].members, levels) for i in together]
        held = [
            self.range_of(self.groups[i].members, rule, levels)
            for i, rule in zip(together, rules, strict=True)
        ]
        scale, zero = affine(union(held), levels)
        shared = f"shared by {len(members)} tensors" if len(members) > 1 else ""
        return ActivationPlan(fmt, scale, zero, members[0], rules[0], shared)

    def narrower(self, graph: LpGraph, members: Sequence[str], fmt: str) -> ActivationPlan | None:
        """What a whole tie group would be planned as in fewer bits; None where it keeps its own.

        Args:
            graph: for the readers of tensors.
            members: all of a tie group.
            fmt: one of LEVELS.
        """
        if self.narrowable.isdisjoint(members):
            return None
        known = set(members)
        together = [i for i, g in enumerate(self.groups) if not known.isdisjoint(g.members)]
        return self.planned(graph, together, fmt)
