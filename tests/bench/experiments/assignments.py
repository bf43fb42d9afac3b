"""One network, many assignments: prepared and scored once, then rounded, emitted and measured for each setting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import onnx

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.mac_energy import PositShare, overhead_against_all_fixp4
from lpcompile.assignment.scored import Picks, Scored, ScoredLayer
from lpcompile.assignment.scoring import MOST_THOROUGH
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.passes.quantize_activations import QuantizeActivations
from lpcompile.passes.quantize_weights import QuantizeWeights
from lpcompile.passes.rounded_layer import rounded_layer
from lpcompile.pipeline import Pass, PassContext, Pipeline, no_progress
from lpcompile.plan import LayerPlan, WeightPlan
from lpcompile.prepared import Preparation
from lpcompile.recipe_passes import split_at_assignment
from lpcompile.records import PassReport
from lpcompile.report.document import held_format
from lpcompile.target import Options
from tests.bench.bench_table import Bench
from tests.support import Array
from tests.zoo.entries import session

_LEAST = 1e-7  # probability; a softmax in float32 may give 0
THREADS = 1  # several experiments share a machine


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


@dataclass(frozen=True)
class Figures:
    """What an assignment does on the evaluation set.

    Attributes:
        score: the entry's own metric.
        sqnr_db: of the first output against float.
        right: of each sample, where the metric is top-1; else None.
        divergence: of the classes from the float model's, nats a sample, where the metric is top-1; else None.
    """

    score: float
    sqnr_db: float
    right: Array | None
    divergence: float | None = None


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

    def _rounded(self, graph: LpGraph, node: Node, statistics: Mapping[str, TensorStatistics]) -> LayerPlan:
        weight = graph.plan.layers[node.name].weight
        decided = weight if weight.format != "float32" else self.planned_weights()
        if (node.name, decided) not in self.held:
            found = rounded_layer(graph, node, decided, statistics, rho=self.rho)
            self.held[node.name, decided] = found
        return self.held[node.name, decided]


class Network:
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
        self.zoo, self.entry = bench.zoo, entry
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

    # assignments

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
        return self._configured(options)._key

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
        scored: Scored = self.context.scored[self.assign._key]
        kept = {layer.name: layer.indices(frozenset({fmt, "int8"})) for layer in scored.layers}
        layers = [replace(x, candidates=[x.candidates[i] for i in kept[x.name]]) for x in scored.layers]
        projections = {n: p[:, :, kept[n]] for n, p in scored.projections.items()}
        key = replace(self.assign, formats=f"{fmt}+int8")._key
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

    # figures

    @cached_property
    def top1(self) -> bool:
        """Whether the metric is top-1, so that samples can be paired."""
        return bool(self.zoo.entries[self.entry]["metric"] == "top1")

    def figures(self, proto: onnx.ModelProto, limit: int | None = None) -> Figures:
        """Score and SQNR on the first samples of the evaluation set; of top-1 entries in one sweep."""
        if not self.top1:
            return Figures(self.score(proto, limit), self.sqnr_db(proto, limit or 64), None)
        return self._of_classes(self._outputs(_bytes(proto), self._reference(limit)[0]), limit)

    def float_figures(self, limit: int | None = None) -> Figures:
        """Of the float model on the same samples."""
        if not self.top1:
            return self.figures(onnx.load(self.zoo.model(self.entry)), limit)
        return self._of_classes(self._reference(limit)[1], limit)

    def _of_classes(self, found: Array, limit: int | None) -> Figures:
        data, reference = self._reference(limit)
        signal, noise = np.square(reference).sum(), np.square(reference - found).sum()
        offset = self.zoo.entries[self.entry].get("class_offset", 0)
        right = found.reshape(len(found), -1).argmax(1) - offset == data["y"]
        ratio = 10 * math.log10(signal / noise) if noise > 0 else math.inf
        return Figures(float(right.mean()), ratio, right, _divergence(reference, found))

    def score(self, proto: onnx.ModelProto, limit: int | None = None) -> float:
        """The entry's own metric."""
        entry = self.zoo.entries[self.entry]
        rule = self.zoo.evaluate.METRICS[entry["metric"]]
        return float(rule(session(_bytes(proto), THREADS), entry, self.zoo.data(self.entry, limit)))

    def sqnr_db(self, proto: onnx.ModelProto, samples: int = 64) -> float:
        """Of the first output over evaluation samples, as the zoo defines it."""
        assert self.zoo.prepare, "evaluate imports it when it is called"
        ours, theirs = (session(m, THREADS) for m in (_bytes(proto), self.zoo.model(self.entry)))
        entry = self.zoo.entries[self.entry]
        return float(self.zoo.evaluate.sqnr(ours, theirs, entry, self.zoo.root, samples))

    def logits_db(self, proto: onnx.ModelProto, samples: int = 64) -> float | None:
        """SQNR of what the last softmax reads, less the mean over classes; None where the output has none."""
        models = [_logits_first(p) for p in (onnx.load(self.zoo.model(self.entry)), proto)]
        if models[0] is None or models[1] is None:
            return None
        data = self.zoo.data(self.entry, samples)
        a, b = (
            x.reshape(-1, x.shape[-1]) - x.reshape(-1, x.shape[-1]).mean(-1, keepdims=True)
            for x in (self._outputs(_bytes(m), data) for m in models)
        )
        noise = np.square(a - b).sum()
        return 10 * math.log10(np.square(a).sum() / noise) if noise > 0 else math.inf

    def _reference(self, limit: int | None) -> tuple[Any, Array]:
        if limit not in self._held:
            data = self.zoo.data(self.entry, limit)
            self._held[limit] = (data, self._outputs(self.zoo.model(self.entry), data))
        return self._held[limit]

    @cached_property
    def _held(self) -> dict[int | None, tuple[Any, Array]]:
        return {}

    def _outputs(self, model: Any, data: Any) -> Array:
        entry = self.zoo.entries[self.entry]
        parts = [o[0] for o in self.zoo.evaluate.batches(session(model, THREADS), entry, data["x"])]
        return np.concatenate(parts).astype(np.float64)


def _logits_first(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the input of the Softmax behind its first output as its first output."""
    last = proto.graph.output[0].name
    node = next((n for n in proto.graph.node if last in n.output), None)
    if node is None or node.op_type != "Softmax":
        return None
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    rest = list(made.graph.output)
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    made.graph.output.extend(rest)
    return made


def _divergence(reference: Array, found: Array) -> float:
    """KL of the classes, mean over samples."""
    p, q = (_log_classes(y.reshape(len(y), -1)) for y in (reference, found))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _log_classes(y: Array) -> Array:
    """Log-probabilities of logits, or of what a softmax made of them."""
    if (y >= 0).all() and np.allclose(y.sum(1), 1, atol=1e-2):
        y = np.log(np.maximum(y, _LEAST))
    y = y - y.max(1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(1, keepdims=True)))


def _bytes(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))
