"""What every trained layer has: arrays in units of their own, and a bias among them where it may be trained."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.ir.node import Node
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import from_rows

Arrays = dict[str, F32]
BIAS_SHARE = 0.1  # of the spread of a layer's output
SMALLEST = 1e-12


class TrainedLayer(Protocol):
    """A layer whose rounded weights, or their scales, are trained.

    Attributes:
        op: its operator.
        shape: of its weights in the operator's own order.
        bias: (C,) or None where none is trained.
    """

    op: str
    shape: tuple[int, ...]
    bias: F32 | None
    node: Node

    @property
    def name(self) -> str:
        """Name of the layer."""

    def start(self) -> Arrays:
        """Arrays before training, by "layer/role"; the caller may change them in place."""

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role."""

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role."""

    def hold(self, values: Mapping[str, F32]) -> None:
        """Keep arrays in their limits, in place."""

    def round(self, values: Mapping[str, F32]) -> QuantizedTensor:
        """Codes and scales of a state."""

    def real_bias(self, values: Mapping[str, F32]) -> F32 | None:
        """(C,) the bias of a state, or None."""


class LayerArrays:
    """Arrays of one layer by role, each in a unit of its own.

    Attributes:
        node: the float layer.
        op: its operator.
        shape: of its weights in the operator's own order.
        bias: (C,) its bias now, or None where none is trained.
        spread: (C,) standard deviation of its outputs, or an estimate of it.
    """

    node: Node
    op: str
    shape: tuple[int, ...]
    bias: F32 | None
    spread: F32 | None
    _units: Arrays
    _start: Arrays

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.node.name

    def start(self) -> Arrays:
        """Arrays before training, by "layer/role"; the caller may change them in place."""
        return {f"{self.name}/{role}": a.copy() for role, a in self._start.items()}

    def real_bias(self, values: Mapping[str, F32]) -> F32 | None:
        """(C,) the bias, or None; the planned one, exactly, where it did not move."""
        if self.bias is None:
            return None
        key = f"{self.name}/bias"
        if np.array_equal(values[key], self._start["bias"]):
            return self.bias
        return np.asarray(values[key] * self._units["bias"], np.float32)

    def _fed(self, rows: F32, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role, of weights (C, K) and the bias of a state."""
        found = {"weight": np.asarray(from_rows(self.op, rows, self.shape), np.float32)}
        bias = self.real_bias(values)
        return found if bias is None else {**found, "bias": bias}

    def _begin_bias(self, w: F32) -> None:
        """Unit and start of the bias; `w` (C, K) stands for the spread of the outputs where that is not known."""
        if self.bias is None:
            return
        spread = np.linalg.norm(w, axis=1) if self.spread is None else self.spread
        mean = max(float(np.mean(spread)), SMALLEST)
        self._units["bias"] = np.asarray(BIAS_SHARE * np.maximum(spread, 0.01 * mean), np.float32)
        self._start["bias"] = np.asarray(self.bias / self._units["bias"], np.float32)

    def _bias_gradient(self, found: Mapping[str, F32]) -> Arrays:
        if "bias" not in found:
            return {}
        return {f"{self.name}/bias": np.asarray(found["bias"] * self._units["bias"], np.float32)}
