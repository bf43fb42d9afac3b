"""Formats of layers whose candidates are scored and priced: by a rule, or exactly and then by measuring the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from lpcompile.analysis.calibration import Feeds
from lpcompile.assignment.assign import exact, greedy, singles
from lpcompile.assignment.greedy import Rule
from lpcompile.assignment.interactions import Interactions
from lpcompile.assignment.joint import Joint, best_measured
from lpcompile.assignment.scored import Picks, Scored, with_picks
from lpcompile.assignment.shared_weights import units_of
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F64
from lpcompile.formats.planned import planned_name
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.passes.measured_assignment import AssignmentLoss, affordable, assignment_loss
from lpcompile.pipeline import PassContext

FEWEST_SHARING = 3  # two layers may hold codes of their own: `quantize_weights.SHARED_BITS`


@dataclass(frozen=True)
class FormatChoice:
    """Chooses; options are those of `assign-formats`.

    Attributes:
        graph: float graph and plan.
        ctx: of the pass.
        key: of the scores in the context.
        method: "exact", or a rule by name.
        formats: that layers may take.
        loss: that is measured.
        joint: changes that are measured with all others in place; 0: nothing is measured.
    """

    graph: LpGraph
    ctx: PassContext
    key: str
    method: str
    formats: Sequence[str]
    loss: str
    joint: int

    @property
    def losses(self) -> str:
        """Where the context keeps what measures assignments."""
        return f"assignment loss of {self.key}"

    def __call__(self, scored: Scored, bounds: Mapping[str, float]) -> Joint:
        """One candidate for every layer.

        Args:
            scored: candidates with costs.
            bounds: upper bounds of sums of costs.

        Raises:
            BudgetError: the bounds cannot be kept.
        """
        units = units_of(scored, self._sharing(scored))
        layers = units.scored.layers
        if self.method != "exact":
            base, upgrade = map(planned_name, self.formats[:2])
            rule = cast(Rule, self.method)
            return units.of_layers(Joint(greedy(layers, bounds, rule, base=base, upgrade=upgrade), {}))
        first = exact(layers, bounds)
        interactions = Interactions(layers, units.scored.projections, bounds)
        rivals = [first, *singles(units.scored, bounds)]
        if interactions.known:
            together = with_picks(layers, interactions.refined(first.picks).picks, "together")
            rivals[0] = replace(together, lower_bound=first.lower_bound)
        if not self._measures():
            return units.of_layers(Joint(first, {}))
        assert self.ctx.calibration is not None
        effort = affordable(self.graph, self.ctx.calibration.deciding, len(rivals), self.joint)
        measure = self._measure(scored, effort.calls)

        def whole(picks: Picks) -> F64:
            return measure.of(units.picks_of_layers(picks))

        found = best_measured(
            layers,
            rivals[: effort.rivals],
            whole,
            bounds=bounds,
            swaps=effort.moves,
            moves=interactions.moves if interactions.known else None,
            trial=lambda picks, enough: measure.of(units.picks_of_layers(picks), enough),
            progress=lambda done, total: self.ctx.progress("measuring assignments", done, total),
        )
        return units.of_layers(found)

    def _measures(self) -> bool:
        ctx = self.ctx
        if not self.joint or ctx.calibration is None or ctx.observe is None or ctx.open_patched is None:
            return False
        return not ctx.calibration.generated and bool(float_outputs(self.graph))

    def _measure(self, scored: Scored, calls: Sequence[Feeds]) -> AssignmentLoss:
        ctx = self.ctx
        assert ctx.observe is not None
        assert ctx.open_patched is not None
        if self.losses not in ctx.scored:
            ctx.scored[self.losses] = assignment_loss(
                self.graph,
                scored.layers,
                ctx.statistics,
                ctx.observe,
                calls,
                ctx.open_patched,
                loss=self.loss,
                per_sample=False,
                rounded=ctx.rounded,
                metrics=ctx.metrics,
            )
        measure: AssignmentLoss = ctx.scored[self.losses]
        return measure

    def _sharing(self, scored: Scored) -> list[list[str]]:
        """Layers of the same weights and the same way to read them, that are many enough to share codes."""
        found: dict[tuple[Value | None, str, int], list[str]] = {}
        for layer in scored.layers:
            node = self.graph.node(layer.name)
            found.setdefault((node.inputs[1], node.op, node.attrs.get("group", 1)), []).append(layer.name)
        return [names for names in found.values() if len(names) >= FEWEST_SHARING]
