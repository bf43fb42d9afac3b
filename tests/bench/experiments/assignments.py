"""One network, many assignments: prepared and scored once, then rounded, emitted and measured for each setting."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, ClassVar

import onnx

from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.mac_energy import PositShare, overhead_against_all_fixp4
from lpcompile.assignment.planned_format import held_format
from lpcompile.assignment.scored import Picks, Scored, ScoredLayer
from lpcompile.assignment.scoring import MOST_THOROUGH
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.passes.quantize_activations import QuantizeActivations
from lpcompile.passes.quantize_weights import QuantizeWeights
from lpcompile.pipeline import Pass, PassContext, Pipeline
from lpcompile.plan import LayerPlan, WeightPlan
from lpcompile.prepared import Preparation
from lpcompile.progress import no_progress
from lpcompile.recipe_passes import split_at_assignment
from lpcompile.records import PassReport
from lpcompile.target import Options
from tests.bench.bench_table import Bench
from tests.bench.experiments.entry_figures import THREADS, EntryFigures


@dataclass(frozen=True)
class Assigned:
    """A network with one assignment.

    Attributes:
        proto: what ONNX Runtime runs.
        graph: with its plan.
        report: of assign-formats; of given formats an empty one.
        later: reports of the passes after it.
        share: of posits, in parameters, MACs and MAC energy.
        bits: stored bits a weight, scales and all.
    """

    proto: onnx.ModelProto
    graph: LpGraph
    report: PassReport
    share: PositShare
    bits: float
    later: tuple[PassReport, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenFormats(Pass):
    """Formats of layers as they were given, in place of `assign-formats`."""

    name: ClassVar[str] = "given-formats"
    exact: ClassVar[bool] = False
    requires: ClassVar[Any] = AssignFormats.requires
    establishes: ClassVar[Any] = AssignFormats.establishes

    weights: Mapping[str, WeightPlan]

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Plan them."""
        for name, weight in self.weights.items():
            graph.plan = graph.plan.with_layer(name, replace(graph.plan.layers[name], weight=weight))
        return PassReport(self.name)


@dataclass(frozen=True, slots=True)
class HeldRounding(QuantizeWeights):
    """`quantize-weights` that rounds a layer to a format once."""

    held: dict[tuple[str, WeightPlan], LayerPlan] = field(default_factory=dict)

    def _rounded(self, graph: LpGraph, node: Node, ctx: PassContext, followers: Sequence[str]) -> LayerPlan:
        key = node.name, self._decided(graph, node)
        if followers:  # its codes serve other layers too
            return QuantizeWeights._rounded(self, graph, node, ctx, followers)
        if key not in self.held:
            self.held[key] = QuantizeWeights._rounded(self, graph, node, ctx, ())
        return self.held[key]


class Network(EntryFigures):
    """A zoo entry at a width of its activations, with the passes of a recipe.

    Args:
        bench: with a zoo.
        entry: of the zoo.
        activation_format: "uint8" or "uint4" (the first and last layer stay at 8 bits); None: the recipe's.
        recipe: with `assign-formats`.
        timed: layers that the recorded table finds faster as floats stay float; else all that can run on integers do.
        seed: of every random choice.
        samples: of the calibration set; None: all.
    """

    def __init__(
        self,
        bench: Bench,
        entry: str,
        activation_format: str | None = None,
        *,
        recipe: str = "mixed-posit",
        timed: bool = False,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        assert bench.zoo is not None
        super().__init__(bench.zoo, entry)
        self.options = Options(recipe=recipe, activation_format=activation_format, seed=seed, threads=THREADS)
        prepared = Preparation("ort", self.options, no_progress).of(
            self.zoo.model(entry), self.zoo.samples(entry, limit=samples)
        )
        passes = tuple(
            replace(p, cost="none") if isinstance(p, QuantizeActivations) and not timed else p
            for p in prepared.passes
        )
        head, tail = split_at_assignment(passes)
        self.assign = tail[0]
        self.tail = tuple(HeldRounding(*astuple(p)) if type(p) is QuantizeWeights else p for p in tail[1:])
        self.graph, self.context, self.target = prepared.graph, prepared.context, prepared.target
        Pipeline(head).run(self.graph, self.context)

    def assigned(self, options: Mapping[str, Any] | None = None) -> Assigned:
        """Formats chosen by `assign-formats` with these options over the recipe's."""
        return self._made(self._configured(options))

    def given(self, weights: Mapping[str, WeightPlan]) -> Assigned:
        """Formats of layers by name; others take those of `quantize-weights`."""
        return self._made(GivenFormats(weights))

    def picked(self, layers: Sequence[ScoredLayer], picks: Picks) -> Assigned:
        """The candidates that an assignment picks."""
        return self.given({layer.name: layer.candidates[picks[layer.name]].weight for layer in layers})

    def scored(self, options: Mapping[str, Any] | None = None) -> Scored:
        """Candidates of all layers, as `assigned` with these options scores them; nothing is measured."""
        self.assigned({**(options or {}), "joint": 0})
        scored: Scored = self.context.scored[self.key(options)]
        return scored

    def key(self, options: Mapping[str, Any] | None = None) -> str:
        """Under which the context holds the scores of `assigned` with these options."""
        own = self._configured(options)
        return own._key(own._names(self.graph))

    def _configured(self, options: Mapping[str, Any] | None) -> AssignFormats:
        assert isinstance(self.assign, AssignFormats)
        own = {k: getattr(self.assign, k.replace("-", "_")) for k in AssignFormats.options()}
        made = AssignFormats.configured({**own, **(options or {})})
        assert isinstance(made, AssignFormats)
        return made

    def narrow(self, fmt: str) -> None:
        """Let one format with int8 use the scores of all formats, where every format was fitted in every layer."""
        assert isinstance(self.assign, AssignFormats)
        if sum(facts.weights for facts in map(layer_facts, self.graph.layers())) > MOST_THOROUGH:
            return
        scored: Scored = self.context.scored[self.key()]
        kept = {layer.name: layer.indices(frozenset({fmt, "int8"})) for layer in scored.layers}
        layers = [replace(x, candidates=[x.candidates[i] for i in kept[x.name]]) for x in scored.layers]
        projections = {n: p[:, :, kept[n]] for n, p in scored.projections.items()}
        key = replace(self.assign, formats=f"{fmt}+int8")._key([fmt, "int8"])
        self.context.scored[key] = Scored(layers, projections)

    def _made(self, first: Pass) -> Assigned:
        graph = self.graph.copy()
        quiet = replace(self.context, warnings=[])
        report, *later = Pipeline((first, *self.tail), frozenset(graph.facts)).run(graph, quiet)
        emitted = self.target.emit(graph, self.options)
        layers = [(layer_facts(n), held_format(graph, n)) for n in graph.layers()]
        weights = sum(facts.weights for facts, _ in layers)
        bits = 8 * sum(emitted.weight_bytes.values()) / max(1, weights)
        return Assigned(emitted.model, graph, report, overhead_against_all_fixp4(layers), bits, tuple(later))
