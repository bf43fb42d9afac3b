"""Networks with given formats that were retrained: one preparation, many seeds of the order of samples."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lpcompile.passes.tune_weights import TuneWeights
from lpcompile.plan import WeightPlan
from tests.bench.experiments.assignments import Assigned, Network


@dataclass(frozen=True)
class Retrained:
    """A network after retraining.

    Attributes:
        made: what came out.
        metrics: of `tune-weights`.
    """

    made: Assigned
    metrics: Mapping[str, float]

    @property
    def held(self) -> list[float]:
        """Loss on held-out calibration samples before the first epoch and after each."""
        return [v for k, v in sorted(self.metrics.items()) if k.removeprefix("loss_held_").isdigit()]


def formats_of(made: Assigned) -> dict[str, WeightPlan]:
    """How each layer's weights are stored."""
    return {name: layer.weight for name, layer in made.graph.plan.layers.items()}


def retrained(
    network: Network, weights: Mapping[str, WeightPlan], options: Mapping[str, Any], seed: int
) -> Retrained:
    """Round to formats by layer, and retrain on all calibration samples.

    Args:
        network: prepared.
        weights: formats by layer.
        options: of `tune-weights`.
        seed: of the order of samples.
    """
    one = copy.copy(network)
    one.tail = (*network.tail, TuneWeights.configured(options))
    one.context = replace(network.context, seed=seed)
    made = one.given(weights)
    return Retrained(made, made.later[-1].metrics)
