"""Rounding with single steps left out or added, by metrics of rounding errors that do as they are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.quantize_weights import QuantizeWeights
from lpcompile.passes.rounded_layer import rounded_layer
from lpcompile.pipeline import PassContext
from lpcompile.plan import LayerPlan
from lpcompile.quant.adaround import adaround
from lpcompile.quant.gram_factor import DAMPING
from lpcompile.quant.input_metric import ROUNDS, InputMetric
from lpcompile.quant.qtensor import QuantizedTensor
from tests.bench.experiments.order_search import best_of_orders


@dataclass(frozen=True)
class Variation:
    """What rounding does; the defaults are what the compiler does.

    Attributes:
        damped: damping chosen for each layer on halves of the samples; else the same for all.
        conditional: scales are chosen by what GPTQ cannot make up for; else by the diagonal.
        sweeps: coordinate descent and channel scales in turn after GPTQ.
        centred: biases take the mean of errors, where there is one.
        orders, adaround: codes are looked for in more ways after that.
    """

    damped: bool = True
    conditional: bool = True
    sweeps: bool = True
    centred: bool = True
    orders: bool = False
    adaround: bool = False


@dataclass(frozen=True, eq=False)
class VariedMetric(InputMetric):
    """A metric under a variation."""

    variation: Variation = field(default_factory=Variation)

    @property
    def importance(self) -> F32:
        """(K,) by which scales are chosen, mean 1."""
        return InputMetric.importance.func(self) if self.variation.conditional else _mean_one(self.sizes)  # type: ignore[attr-defined]

    def rounded(
        self,
        rows: F32,
        tensor: QuantizedTensor,
        *,
        min_scale: F32 | None = None,
        rounds: int = ROUNDS,
        learned: bool = False,
        keeps_scales: bool = False,
    ) -> QuantizedTensor:
        """Codes as the variation wants them."""
        rounds = rounds if self.variation.sweeps else 0
        found = InputMetric.rounded(
            self, rows, tensor, min_scale=min_scale, rounds=rounds, learned=learned, keeps_scales=keeps_scales
        )
        if self.variation.orders:
            found = best_of_orders(rows, found, self.matrix, damping=self.damping)
        if self.variation.adaround:
            found = adaround(rows, found, self.matrix, damping=self.damping)
        return found


@dataclass(frozen=True, slots=True)
class VariedRounding(QuantizeWeights):
    """`quantize-weights` by given metrics, also by some that do not fit how layers are planned."""

    metrics: Mapping[str, InputMetric] = field(default_factory=dict)

    @classmethod
    def of(cls, rounding: QuantizeWeights, metrics: Mapping[str, InputMetric]) -> "VariedRounding":
        """With the options of a pass."""
        return cls(**{f.name: getattr(rounding, f.name) for f in fields(rounding)}, metrics=metrics)

    def _rounded(self, graph: LpGraph, node: Node, ctx: PassContext, followers: Sequence[str]) -> LayerPlan:
        decided, metric = self._decided(graph, node), self.metrics.get(node.name)
        if metric is not None:
            metric = metric.beside([self.metrics[n] for n in followers if n in self.metrics])
        return rounded_layer(
            graph, node, decided, ctx.statistics, metric=metric, rounds=self.sweeps, rho=self.rho
        )


def varied(metrics: Mapping[str, InputMetric], variation: Variation) -> dict[str, InputMetric]:
    """Metrics of layers under a variation; layers that share one still do."""
    distinct = {id(m): _varied(m, variation) for m in metrics.values()}
    return {name: distinct[id(m)] for name, m in metrics.items()}


def _varied(metric: InputMetric, variation: Variation) -> InputMetric:
    matrix, centred = metric.matrix, metric.centred and variation.centred
    if metric.centred and not centred:
        mean = metric.mean
        matrix = (matrix + mean[:, :, None] * mean[:, None, :]).astype(np.float32)
    damping = metric.damping if variation.damped else DAMPING
    return VariedMetric(matrix, metric.mean, centred, damping=damping, step=metric.step, variation=variation)


def _mean_one(sizes: F32) -> F32:
    return np.asarray(sizes / max(float(sizes.mean()), float(np.finfo(np.float32).tiny)), np.float32)
