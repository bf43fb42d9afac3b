"""The loss of a whole assignment, measured: its rounded weights patched into one float session.

Activations stay float where formats of weights are compared; `with_activations` measures with theirs rounded, too.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.gradients import read_logits
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.macs import macs_on
from lpcompile.analysis.mean_inputs import mean_inputs
from lpcompile.analysis.measured import Judge, OpenPatched
from lpcompile.analysis.own_weights import with_own_weights
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.assignment.scored import Picks, ScoredLayer
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import bias_obstacle, mean_shift
from lpcompile.passes.rounded_layer import rounded_layer
from lpcompile.plan import ActivationPlan, LayerPlan, WeightPlan
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.rows import to_rows

MOST_MACS = 6e10  # of all measurements of one assignment; some seconds on two cores
LEAST_SAMPLES = 32
LEAST_RIVALS = 2
HELD_BYTES = 1 << 28  # of codes that are kept
THREADS = 2


@dataclass
class AssignmentLoss:
    """Output noise power over signal power of an assignment, call by call.

    Attributes:
        graph: float graph and plan.
        layers: with candidates.
        statistics: of activations.
        judge: of the float model.
        open_patched: opens the graph.
        opened: what is opened in its place; None: the graph itself, activations staying float.
        rounded: layers as they were rounded, kept for the next assignment and for the final one.
        metrics: of rounding errors, by layer, for those that are rounded by them.
    """

    graph: LpGraph
    layers: Sequence[ScoredLayer]
    statistics: Mapping[str, TensorStatistics]
    judge: Judge
    open_patched: OpenPatched
    opened: LpGraph | None = None
    rounded: dict[tuple[str, WeightPlan], LayerPlan] = field(default_factory=dict)
    metrics: Mapping[str, InputMetric] = field(default_factory=dict)
    _now: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = {layer.name: self.graph.node(layer.name) for layer in self.layers}
        self._candidates = {layer.name: layer.candidates for layer in self.layers}
        names = [name for node in self._nodes.values() for name in self._patched(node)]
        self._model = self.open_patched(
            self.opened or self.graph, list(dict.fromkeys(names)), self.judge.outputs
        )

    def with_activations(self, plans: Mapping[str, ActivationPlan]) -> "AssignmentLoss":
        """The same measure with tensors rounded as planned."""
        return replace(self, opened=with_rounded_activations(self.graph, plans), _now={})

    def of(
        self, picks: Picks, enough: Callable[[NDArray[np.float64]], bool] | None = None
    ) -> NDArray[np.float64]:
        """One figure a call (a sample where samples can be told apart), of the first calls until they are enough."""
        changed = [(name, pick) for name, pick in picks.items() if self._now.get(name) != pick]
        # Layers are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            for (name, pick), plan in zip(
                changed, pool.map(lambda c: self._rounded(*c), changed), strict=True
            ):
                for constant, values in self._values(name, plan).items():
                    self._model.patch(constant, values)
                self._now[name] = pick
                self._keep(name, pick, plan)
        return self.judge.noise_terms(self._model.run, enough)

    def _patched(self, node: Node) -> list[str]:
        weight = node.inputs[1]
        assert weight is not None
        bias = self._bias(node)
        return [weight.name] if bias is None else [weight.name, bias]

    def _bias(self, node: Node) -> str | None:
        """The bias that will be corrected; None where there is none, or others read it too."""
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        kernel = self.graph.plan.layers[node.name].kernel
        if bias is None or bias_obstacle(node, kernel) or len(bias.consumers) > 1:
            return None
        return bias.name if mean_inputs(node, self.statistics, self.metrics) is not None else None

    def _rounded(self, name: str, pick: int) -> LayerPlan:
        weight = self._candidates[name][pick].weight
        if (name, weight) in self.rounded:
            return self.rounded[name, weight]
        return rounded_layer(
            self.graph,
            self._nodes[name],
            weight,
            self.statistics,
            metric=self.metrics.get(name),
            rounds=0,
            learns=False,
        )

    def _keep(self, name: str, pick: int, plan: LayerPlan) -> None:
        held = sum(p.tensor.codes.nbytes for p in self.rounded.values() if p.tensor is not None)
        if plan.tensor is not None and held + plan.tensor.codes.nbytes <= HELD_BYTES:
            self.rounded[name, self._candidates[name][pick].weight] = plan

    def _values(self, name: str, plan: LayerPlan) -> dict[str, NDArray[np.float32]]:
        """Constants of the float graph with a layer's rounded weights, its bias corrected for them."""
        node = self._nodes[name]
        weight = node.inputs[1]
        assert weight is not None
        assert plan.tensor is not None
        rows = plan.tensor.dequantize()
        values = {weight.name: as_weight(node, rows)}
        if (bias := self._bias(node)) is not None:
            values[bias] = np.asarray(self.graph.value(bias).values + self._shift(node, plan), np.float32)
        return values

    def _shift(self, node: Node, plan: LayerPlan) -> F32:
        if plan.bias_correction is not None:
            return plan.bias_correction
        weight, mean = node.inputs[1], mean_inputs(node, self.statistics, self.metrics)
        assert weight is not None
        assert mean is not None
        assert plan.tensor is not None
        return mean_shift(to_rows(node.op, weight.values), plan.tensor, mean)


def assignment_loss(
    graph: LpGraph,
    layers: Sequence[ScoredLayer],
    statistics: Mapping[str, TensorStatistics],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    open_patched: OpenPatched,
    *,
    loss: str,
    per_sample: bool,
    rounded: dict[tuple[str, WeightPlan], LayerPlan] | None = None,
    metrics: Mapping[str, InputMetric] | None = None,
) -> AssignmentLoss:
    """The loss of assignments on these calls.

    Args:
        graph: float graph and plan.
        layers: with candidates.
        statistics: of activations.
        observe: opens a graph.
        calls: deciding ones.
        open_patched: opens a graph for patching, to give named tensors.
        loss: "logits" measures what the last softmax reads, where every output has one; else outputs are measured.
        per_sample: the first axis of outputs counts samples.
        rounded: where rounded layers are kept.
        metrics: of rounding errors, by layer.
    """
    graph = with_own_weights(graph, [layer.name for layer in layers])
    outputs = float_outputs(graph)
    logits = read_logits(outputs) if loss == "logits" else None
    names = logits or [v.name for v in outputs]
    judge = Judge(observe(graph, names), calls, names, per_sample=per_sample, logits=logits is not None)
    return AssignmentLoss(
        graph,
        layers,
        statistics,
        judge,
        open_patched,
        rounded={} if rounded is None else rounded,
        metrics=metrics or {},
    )


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        calls: that assignments are measured on.
        rivals: assignments that are measured first.
        moves: changes that are tried after them.
    """

    calls: list[Feeds]
    rivals: int
    moves: int


def affordable(graph: LpGraph, calls: Sequence[Feeds], rivals: int, moves: int) -> Effort:
    """What can be measured within MOST_MACS: fewer samples first, then fewer moves, then fewer rivals.

    Args:
        graph: float graph.
        calls: deciding ones.
        rivals: that are there.
        moves: that are wanted.
    """
    sizes = [max((len(v) for v in c.values() if v.ndim), default=1) for c in calls]
    macs = max(1, macs_on(graph, calls[0]) // sizes[0])
    samples = MOST_MACS / macs / max(1, rivals + moves)
    per_call = sum(sizes) / max(1, len(sizes))
    kept = int(np.clip(round(max(samples, LEAST_SAMPLES) / per_call), 1, len(calls)))
    chosen = [calls[int(i)] for i in np.linspace(0, len(calls) - 1, kept).astype(int)]
    most = int(MOST_MACS / macs / max(1.0, kept * per_call))
    return Effort(chosen, max(LEAST_RIVALS, min(rivals, most)), int(np.clip(most - rivals, 0, moves)))
