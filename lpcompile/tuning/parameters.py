"""What is trained, by name: latent weights, scales and biases of layers, and parameters of norms.

Every array is trained in a unit of its own, so that one learning rate suits all: weights in steps of their
quantiser, scales in tenths of what they start from, biases in tenths of their output's spread. What the model reads
is unit * array.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.ir.node import Node
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.tuning.estimators import Cells, Estimator
from lpcompile.tuning.layer_arrays import BIAS_SHARE, SMALLEST, Arrays, LayerArrays
from lpcompile.tuning.quantiser import WeightQuantiser

SCALE_STEPS = 10.0  # a scale starts at 10 units; larger units (3) made short trainings noisier and no better
SCALE_LIMITS = (SCALE_STEPS / 4, SCALE_STEPS * 4)


class Trained(Protocol):
    """What is trained: arrays of its own by "name/role", and what the model reads of them by role."""

    @property
    def name(self) -> str:
        """Name of its node."""

    def start(self) -> Arrays:
        """Arrays before training, by "name/role"; the caller may change them in place."""

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role."""

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role."""


class TunedConstants(Trained, Protocol):
    """Constants of one node that are trained."""

    @property
    def roles(self) -> Mapping[str, int]:
        """Role -> number of the input."""

    @property
    def running(self) -> bool:
        """Whether they follow the statistics of the batches."""


@dataclass
class TunedLayer(LayerArrays):
    """One layer that is retrained.

    Args:
        node: the float layer.
        tensor: its planned codes, (C, K).
        estimator: of the gradient through rounding.
        learn_scales: whether channel scales are trained, too.
        bias: (C,) its bias now, or None where none is trained.
        spread: (C,) standard deviation of its outputs, or an estimate of it.
        least_scales: (C,) scales of the int8 image may not fall below these.
    """

    node: Node
    tensor: QuantizedTensor
    estimator: Estimator
    learn_scales: bool = False
    bias: F32 | None = None
    spread: F32 | None = None
    least_scales: F32 | None = None
    _units: Arrays = field(default_factory=dict)
    _start: Arrays = field(default_factory=dict)
    _last: tuple[F32, F32] | None = None  # latent weights and what they were rounded to

    def __post_init__(self) -> None:
        weight = self.node.inputs[1]
        assert weight is not None
        self.op, self.shape = self.node.op, weight.dims
        self.quantiser = WeightQuantiser(self.tensor)
        w = to_rows(self.op, weight.values)
        self._units["weight"] = np.maximum(self.quantiser.steps, np.float32(SMALLEST))
        self._start["weight"] = np.asarray(self.quantiser.start(w) / self._units["weight"], np.float32)
        if self.learn_scales:
            self._units["scale"] = np.asarray(self.quantiser.scales / np.float32(SCALE_STEPS), np.float32)
            self._start["scale"] = np.full_like(self._units["scale"], SCALE_STEPS)
        self._begin_bias(w)

    def round(self, values: Mapping[str, F32]) -> QuantizedTensor:
        """Codes of the latent weights."""
        latent = np.asarray(values[f"{self.name}/weight"] * self._units["weight"], np.float32)
        scales = None
        if self.learn_scales:
            scales = np.asarray(values[f"{self.name}/scale"] * self._units["scale"], np.float32)
        tensor = self.quantiser.round(latent, scales)
        self._last = latent, tensor.dequantize()
        return tensor

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role: rounded weights in the operator's own shape, and the bias."""
        self.round(values)
        assert self._last is not None
        return self._fed(self._last[1], values)

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role."""
        made: Arrays = {}
        if "weight" in found:
            assert self._last is not None
            rows = to_rows(self.op, found["weight"])
            cells = self.quantiser.cells(*self._last)
            slope = self.estimator.slope(cells)
            made[f"{self.name}/weight"] = np.asarray(rows * slope * self._units["weight"], np.float32)
            if self.learn_scales:
                made[f"{self.name}/scale"] = self._scale_gradient(rows, cells, slope)
        return made | self._bias_gradient(found)

    def _scale_gradient(self, rows: F32, cells: Cells, slope: F32) -> F32:
        """Summed over the weights of each scale, times 1 / sqrt(n Q_P) [esser2020]."""
        unit = self._units["scale"]
        each = rows * self.estimator.scale_slope(cells, slope)
        summed = each.sum(axis=1, keepdims=True) if len(unit) > 1 else each.sum().reshape(1, 1)
        count = rows.size / len(unit)
        return np.asarray(summed * unit / np.sqrt(count * self.quantiser.top), np.float32)

    def hold(self, values: Mapping[str, F32]) -> None:
        """Keep scales in their limits, in place."""
        if not self.learn_scales:
            return
        scale, (low, high) = values[f"{self.name}/scale"], SCALE_LIMITS
        np.clip(scale, low, high, out=scale)
        if self.least_scales is not None:
            least = self.least_scales.reshape(-1, 1) / self._units["scale"]
            np.maximum(scale, least.max() if len(scale) == 1 else least, out=scale)


@dataclass
class TunedNorm:
    """Scale and bias of a normalisation that stayed in the graph.

    Args:
        node: its constant inputs 1 and 2 are trained.
        running: follow the statistics of the batches: running averages take the place of the stored ones.
    """

    node: Node
    running: bool = False
    momentum: float = 0.9
    _units: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        present = {i for i, v in enumerate(self.node.inputs) if v is not None and v.is_constant}
        wanted = {"scale": 1, "bias": 2} | ({"mean": 3, "variance": 4} if self.running else {})
        self.roles = {role: i for role, i in wanted.items() if i in present}
        self._initial = {role: self._constant(i) for role, i in self.roles.items()}
        spread = max(float(np.abs(self._initial["scale"]).mean()), SMALLEST)
        self._units = {
            role: np.float32(BIAS_SHARE * spread) * np.ones_like(self._initial[role])
            for role in ("scale", "bias")
            if role in self._initial
        }

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    def _constant(self, i: int) -> F32:
        value = self.node.inputs[i]
        assert value is not None
        return np.array(value.values, np.float32)

    def start(self) -> Arrays:
        """Arrays before training, by "node/role"."""
        return {
            f"{self.name}/{role}": np.asarray(a / self._units[role] if role in self._units else a, np.float32)
            for role, a in self._initial.items()
        }

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role."""
        return {
            role: np.asarray(values[f"{self.name}/{role}"] * self._units.get(role, np.float32(1)), np.float32)
            for role in self.roles
        }

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read, by role."""
        return {
            f"{self.name}/{role}": np.asarray(found[role] * unit, np.float32)
            for role, unit in self._units.items()
            if role in found
        }

    def follow(self, values: Mapping[str, F32], mean: F32, variance: F32) -> None:
        """Take the statistics of a batch into the running averages, in place."""
        for role, batch in (("mean", mean), ("variance", variance)):
            running = values[f"{self.name}/{role}"]
            running *= np.float32(self.momentum)
            running += np.float32(1 - self.momentum) * batch.reshape(running.shape)
