"""Choose the number format, granularity and scale format of every layer: least predicted loss within a budget.

Candidates are fitted as they will be rounded, scored by the exact Fisher form of their errors (or by a sensitivity by
name), and chosen by a multiple-choice knapsack. The result is measured as a whole beside the single formats with int8
that are predicted best: it is never worse than those on the calibration loss. A greedy rule by name is followed as it
stands, from the first of the formats to the second. [architecture 6; papers/mixed-posit 2.7, 2.8]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lpcompile import option_checks
from lpcompile.analysis.gradients import LOSSES
from lpcompile.analysis.sensitivity import ALIASES
from lpcompile.assignment.activation_scoring import score_narrow
from lpcompile.assignment.budget import ADDITIVE
from lpcompile.assignment.candidates import Rounding
from lpcompile.assignment.costs import Setting, additive_bounds, average_bits, costs_of, missed_as_asked
from lpcompile.assignment.frontier import curve
from lpcompile.assignment.greedy import RULES as GREEDY
from lpcompile.assignment.joint import Joint
from lpcompile.assignment.layer_facts import LayerFacts, layer_facts
from lpcompile.assignment.overrides import FLOAT, Override, override_of, parse_overrides, unmatched
from lpcompile.assignment.pricing import Pricing
from lpcompile.assignment.rule_scores import RULES
from lpcompile.assignment.scored import Scored, ScoredCandidate, ScoredLayer
from lpcompile.assignment.scoring import Scorer
from lpcompile.assignment.tie_groups import NARROW, WIDE, narrowable_groups
from lpcompile.assignment.width_choice import COUNTS_ACTIVATIONS, ScoredGroup, Widths
from lpcompile.errors import BudgetError, PipelineError
from lpcompile.formats.planned import format_of
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.candidate_plans import (
    AUTO_FORMATS,
    candidate_formats,
    candidate_plans,
    formats_of_any_width,
)
from lpcompile.passes.chosen_formats import FormatChoice
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.finalists import plans_of_finalists
from lpcompile.passes.formats_and_widths import formats_and_widths
from lpcompile.passes.input_metrics import input_metrics
from lpcompile.passes.least_scale import least_scale
from lpcompile.passes.rounded_layer import keep_kernel_sums
from lpcompile.passes.side_path_candidates import parse_ranks, with_side_paths
from lpcompile.passes.side_paths import lowering_of
from lpcompile.passes.written_assignment import learned_tables, write_assignment
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import MERGED, METRIC_ROUNDINGS, ROUNDINGS, Kernel, LayerPlan, WeightPlan
from lpcompile.quant.input_metric import InputMetric
from lpcompile.records import PassReport

ACTIVATIONS = ("auto", WIDE, f"{WIDE}+{NARROW}")
ROUNDING = 1e-9  # of sums of costs
METHODS = ("exact", *GREEDY)
SENSITIVITIES = ("fisher", *RULES)
AUTO_GRANULARITIES = "channel+group8+group16+group32+group64+group128"
REFERENCE = ("fixp4", "channel")  # whose predicted loss is a layer's `sensitivity`


@dataclass(frozen=True, slots=True)
class AssignFormats(Pass):
    """One format a layer, under a budget; bounds of 0 do not bind.

    Attributes:
        formats: candidates, joined by +; large networks and tight budgets add int6 and int3 to the default.
        granularities: candidates, joined by +: tensor, channel, group and a size.
        method: exact: the knapsack; paper-greedy, ratio-greedy: rules that go from the first of two formats to
            the second.
        sensitivity: of candidates: fisher, gradient, hessian, measured; s1 ... s4 as the paper's notes number them.
        loss: whose growth is predicted: logits, kl, mse, probe, labels, sampled, or auto.
        samples: how many of the deciding samples give gradients.
        rounding: how candidates are rounded while they are scored: nearest, kernel-sums, gptq, adaround.
        ranks: of side paths beside the codes, as 4+8+16; empty: none.
        activations: uint8, uint8+uint4 (both widths are candidates), or auto: both where a bound counts them.
        joint: changes that are measured with all others in place; 0: nothing is measured.
        nearest: take the nearest point where bounds cannot be kept, with a warning.
        avg-bits: most stored bits a weight, over all layers with weights.
        bytes: most bytes of stored weights.
        ace: most MACs x bits of weights x bits of activations.
        acev2: most ACEv2 of the layers.
        energy-pj: most energy of an inference on the machine (cim), estimated, in picojoules.
        posit-fraction: largest share of the weights in posit formats.
    """

    name: ClassVar[str] = "assign-formats"
    summary: ClassVar[str] = "choose a number format for every layer: least predicted loss within a budget"
    takes: ClassVar[tuple[str, ...]] = ("layer_formats",)
    exact: ClassVar[bool] = False
    many_temporaries: ClassVar[bool] = True
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.FORMATS_ASSIGNED})

    formats: str = AUTO_FORMATS
    granularities: str = AUTO_GRANULARITIES
    method: str = "exact"
    sensitivity: str = "fisher"  # of candidates; s1 ... s4 as the paper's notes number them
    loss: str = "logits"
    samples: int = 256
    rounding: str = "gptq"
    ranks: str = ""  # of side paths beside the codes, as 4+8+16; empty: none
    activations: str = "auto"  # both widths where a bound counts them
    joint: int = 8  # changes that are measured with all others in place; 0: nothing is measured
    nearest: bool = False  # take the nearest point where bounds cannot be kept, with a warning
    avg_bits: float = 0.0
    bytes: float = 0.0
    ace: float = 0.0
    acev2: float = 0.0
    energy_pj: float = 0.0
    posit_fraction: float = 0.0

    def __post_init__(self) -> None:
        option_checks.one_of("method", self.method, METHODS)
        option_checks.one_of("loss", self.loss, LOSSES)
        option_checks.one_of("sensitivity", self._sensitivity, SENSITIVITIES)
        option_checks.one_of("rounding", self.rounding, ROUNDINGS)
        option_checks.one_of("activations", self.activations, ACTIVATIONS)
        for name in self.formats.split("+"):
            format_of(name)
        if self.method in GREEDY and "+" not in self.formats:
            raise ValueError(f"method '{self.method}' goes from one of two formats to the other")
        parse_ranks(self.ranks)
        if self.samples < 1 or self.joint < 0:
            raise ValueError("option 'samples' is at least 1, 'joint' at least 0")

    @property
    def _sensitivity(self) -> str:
        return ALIASES.get(self.sensitivity, self.sensitivity)

    @property
    def budget(self) -> dict[str, float]:
        """Bounds that bind, by their names."""
        given = {name: float(getattr(self, name.replace("-", "_"))) for name in ADDITIVE}
        return {name: bound for name, bound in given.items() if bound > 0}

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan the weights of every layer whose kernel is not `float`."""
        report = PassReport(self.name)
        ctx.finalists.clear()
        if self.ranks:
            lowering_of(ctx.target, MERGED)  # costs of separate paths are not known here
        if ctx.decisions is not None:
            for name, layer in graph.plan.layers.items():
                report.skip(name, f"{layer.weight.format}, as decided in the file")
            self._metrics(graph, ctx)  # biases are corrected by them
            return report
        overrides = parse_overrides(ctx.layer_formats)
        for pattern in unmatched(overrides, (n.name for n in graph.layers())):
            raise PipelineError(
                f"no layer matches '{pattern}'", hint="'lpcompile inspect MODEL' lists the layers"
            )
        self._keep_float(graph, overrides)
        nodes = [n for n in graph.layers() if not _stays_float(graph, n)]
        for node in graph.layers():
            if node not in nodes:
                report.skip(node, graph.plan.layers.get(node.name, LayerPlan()).reason or "it stays float")
        if not nodes:
            return report
        facts = {n.name: layer_facts(n) for n in graph.layers()}
        pricing = Pricing(
            self._costs(), graph, facts, Setting(ctx.target, ctx.machine, ctx.emit, ctx.resident)
        )
        names = self._names(graph)
        key = self._key(names)
        if key not in ctx.scored:
            ctx.scored[key] = self._scored(graph, ctx, nodes, facts, overrides, names)
        scored: Scored = ctx.scored[key]
        scored = replace(scored, layers=[pricing.priced(layer) for layer in scored.layers])
        ctx.scored[key] = scored
        bounds = self._bounds(graph, facts, {n.name for n in nodes})
        groups = self._groups(graph, ctx, pricing, scored.layers)

        choose = FormatChoice(graph, ctx, key, self.method, names, self.loss, self.joint)

        def decided(left: Mapping[str, float]) -> tuple[Widths, Joint]:
            return formats_and_widths(
                scored,
                groups,
                left,
                graph.plan.activations,
                lambda layers: choose(replace(scored, layers=layers), left),
                lambda: ctx.scored.get(choose.losses) if self.joint else None,
            )

        try:
            left = {n: max(0.0, bound) for n, bound in bounds.items()}  # float layers may take all of it
            widths, chosen = decided(left)
        except BudgetError as error:
            missed = missed_as_asked(error, self.budget, bounds, list(facts.values()))
            if not self.nearest or not error.nearest:
                raise missed from error
            ctx.warnings.append(f"{missed.message}, which was taken")
            left |= {name: value * (1 + ROUNDING) for name, value in error.nearest.items()}
            widths, chosen = decided(left)
        for held in [k for k in ctx.rounded if k[0] in widths.readers]:
            del ctx.rounded[held]  # rounded for another step of its input
        in_db = self.loss in ("logits", "probe") and self._sensitivity != "gradient"
        before = graph.plan
        write_assignment(graph, widths, chosen, report, in_db=in_db)
        ctx.finalists |= plans_of_finalists(graph, before, widths, chosen, in_db=in_db)
        ctx.learned_tables = learned_tables(graph, nodes, names, overrides)
        bits = chosen.assignment.costs.get("bits", 0.0)
        report.metrics["avg_bits"] = average_bits(bits, facts, [layer.name for layer in scored.layers])
        return report

    def for_any_width(self, graph: LpGraph) -> "AssignFormats":
        """The same with all formats that tight budgets add in this network, for trying one width after another."""
        names = formats_of_any_width(self.formats, [layer_facts(n) for n in graph.layers()])
        return replace(self, formats="+".join(names))

    def trade_off(self, graph: LpGraph, ctx: PassContext) -> tuple[list[float], list[float]]:
        """Average widths and the least predicted losses within them, once candidates are scored.

        Returns:
            Bits a weight over all layers, ascending, and losses, falling; both empty where nothing is assigned.
        """
        scored: Scored | None = ctx.scored.get(self._key(self._names(graph)))
        if scored is None:
            return [], []
        facts = {n.name: layer_facts(n) for n in graph.layers()}
        names = [layer.name for layer in scored.layers]
        points = curve([layer.item for layer in scored.layers], "bits")
        return [average_bits(p.cost, facts, names) for p in points], [p.loss for p in points]

    def _names(self, graph: LpGraph) -> list[str]:
        """Formats that layers may take."""
        nodes = graph.layers()
        floats = [i for i, n in enumerate(nodes) if _stays_float(graph, n)]
        return candidate_formats(self.formats, self.budget, [layer_facts(n) for n in nodes], floats)

    def _key(self, names: Sequence[str]) -> str:
        """Of the scores: what they depend on."""
        scores = ("+".join(names), self.granularities, self.loss, self._sensitivity, self.samples)
        return " ".join(map(str, (*scores, self.rounding, self.ranks)))

    def _keep_float(self, graph: LpGraph, overrides: Sequence[Override]) -> None:
        for node in graph.layers():
            rule = override_of(node.name, overrides)
            if rule is not None and rule.format == FLOAT:
                reason = f"kept float by '{rule.text}'"
                graph.plan = graph.plan.with_layer(node.name, LayerPlan(Kernel.FLOAT, reason=reason))

    def _scored(
        self,
        graph: LpGraph,
        ctx: PassContext,
        nodes: Sequence[Node],
        facts: Mapping[str, LayerFacts],
        overrides: Sequence[Override],
        names: Sequence[str],
    ) -> Scored:
        scorer = self._scorer(graph, ctx)
        floors = {n.name: low for n in nodes if (low := least_scale(graph, n, _kernel(graph, n))) is not None}
        rules = {n.name: override_of(n.name, overrides) for n in nodes}
        plans = {n.name: self._plans(graph, ctx, n, facts[n.name], rules[n.name], names) for n in nodes}
        fitted = scorer.fitted(plans, floors)
        for node in nodes if self.ranks else []:
            if rules[node.name] is None:
                more = parse_ranks(self.ranks), floors.get(node.name)
                fitted[node.name] = with_side_paths(node, _kernel(graph, node), fitted[node.name], *more)
        projected = scorer.projected(fitted)
        found = []
        for node in nodes:
            score, rule = projected.scores[node.name], rules[node.name]
            candidates = tuple(
                ScoredCandidate(c.weight, float(loss), float(error), {})
                for c, loss, error in zip(
                    fitted[node.name].candidates, score.mean, score.standard_error, strict=True
                )
            )
            plain = [c for c in candidates if not c.weight.rank]
            reference = [c.loss for c in plain if (c.weight.format, c.weight.granularity) == REFERENCE]
            found.append(
                ScoredLayer(
                    node.name,
                    facts[node.name].weights,
                    candidates,
                    "" if rule is None else f"narrowed by '{rule.text}'",
                    reference[0] if reference else None,
                )
            )
        return Scored(found, projected.projections)

    def _scorer(self, graph: LpGraph, ctx: PassContext) -> Scorer:
        calls = (
            ctx.calibration.deciding if ctx.calibration is not None and not ctx.calibration.generated else []
        )
        return Scorer(
            graph,
            ctx.observe,
            calls,
            ctx.statistics,
            self.loss,
            self.samples,
            ctx.seed,
            lambda node: not bias_obstacle(node, graph.plan.layers[node.name].kernel),
            lambda node: self._rounding(node, ctx),
            ctx.open_patched,
            ctx.progress,
            ctx.warnings,
            self._metrics(graph, ctx),
            self._sensitivity,
        )

    def _metrics(self, graph: LpGraph, ctx: PassContext) -> Mapping[str, InputMetric]:
        """Metrics of all layers that are rounded, where any format is to be rounded by them."""
        if self.rounding not in METRIC_ROUNDINGS:
            return {}
        plans = graph.plan.layers
        return input_metrics(
            graph, ctx, [n.name for n in graph.layers() if plans[n.name].kernel is not Kernel.FLOAT]
        )

    def _groups(
        self, graph: LpGraph, ctx: PassContext, pricing: Pricing, layers: Sequence[ScoredLayer]
    ) -> list[ScoredGroup]:
        """Tie groups that may take 4 bits, with what that loses and saves."""
        counted = any(name in self.budget for name in COUNTS_ACTIVATIONS)
        if self.activations == WIDE or (self.activations == "auto" and not counted) or self.method in GREEDY:
            return []
        groups = narrowable_groups(graph, ctx.ranges)
        key = f"activations {self.loss} {self.samples}"
        if key not in ctx.scored:
            ctx.scored[key] = score_narrow(self._scorer(graph, ctx), groups)
        by_name = {layer.name: layer for layer in layers}
        return [pricing.group(g, ctx.scored[key][g.name], by_name) for g in groups]

    def _rounding(self, node: Node, ctx: PassContext) -> Rounding | None:
        if self.rounding == "nearest":
            return None
        return lambda rows, tensor: keep_kernel_sums(node, rows, tensor, ctx.statistics)

    def _plans(
        self,
        graph: LpGraph,
        ctx: PassContext,
        node: Node,
        facts: LayerFacts,
        rule: Override | None,
        names: Sequence[str],
    ) -> list[WeightPlan]:
        """What a layer may take."""
        formats = names if rule is None else [rule.format]
        assert ctx.target is not None, "plan passes run with a target"
        granularities = None if self.granularities == AUTO_GRANULARITIES else self.granularities.split("+")
        if rule is not None and rule.granularity:
            granularities = [rule.granularity]
        return candidate_plans(
            node, _kernel(graph, node), facts, ctx.target, formats, granularities, self.rounding
        )

    def _costs(self) -> list[str]:
        names = ["bits", "posit", "posit-macs", "acev2"]
        return names + [n for n in ("bytes", "ace", "energy-pj") if n in self.budget]

    def _bounds(
        self, graph: LpGraph, facts: Mapping[str, LayerFacts], assigned: set[str]
    ) -> dict[str, float]:
        """What is left of the budget for the layers that are assigned."""
        bounds = additive_bounds(self.budget, list(facts.values()))
        fixed = [f for name, f in facts.items() if name not in assigned]
        for name in bounds:
            if name != "energy-pj":  # floats run on no machine
                bounds[name] -= sum(costs_of([name], f, f.left_alone)[name] for f in fixed)
        return bounds


def _stays_float(graph: LpGraph, node: Node) -> bool:
    return graph.plan.layers.get(node.name, LayerPlan()).kernel is Kernel.FLOAT


def _kernel(graph: LpGraph, node: Node) -> Kernel:
    return graph.plan.layers[node.name].kernel
