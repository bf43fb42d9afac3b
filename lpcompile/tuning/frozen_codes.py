"""A layer whose codes stay: its channel scales and its bias are trained.

W^ = s T with T fixed, so dL/ds is the sum of dL/dW^ T over the weights of a scale, no estimator of a rounding needed.
Scales that are stored in a format of their own are rounded to it in every forward step; the gradient goes straight
through.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.ir.node import Node
from lpcompile.quant.nearest_codes import channel_scales, with_channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.tuning.layer_arrays import Arrays, LayerArrays
from lpcompile.tuning.parameters import SCALE_LIMITS, SCALE_STEPS


@dataclass
class FrozenLayer(LayerArrays):
    """One layer with frozen codes.

    Args:
        node: the float layer.
        tensor: its planned codes, (C, K).
        learn_scales: whether its scales are trained: one of the tensor, or one a channel.
        bias: (C,) its bias now, or None where none is trained.
        spread: (C,) standard deviation of its outputs, or an estimate of it.
        least_shares: (C,) scales may not fall below this share of what they are.
    """

    node: Node
    tensor: QuantizedTensor
    learn_scales: bool = True
    bias: F32 | None = None
    spread: F32 | None = None
    least_shares: F32 | None = None
    _units: Arrays = field(default_factory=dict)
    _start: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight = self.node.inputs[1]
        assert weight is not None
        self.op, self.shape = self.node.op, weight.dims
        self._last, self._read = self.tensor.dequantize(), channel_scales(self.tensor).reshape(-1, 1)
        if self.learn_scales:
            self._planned = channel_scales(self.tensor)
            self._units["scale"] = np.asarray(
                self._planned.reshape(-1, 1) / np.float32(SCALE_STEPS), np.float32
            )
            self._start["scale"] = np.full_like(self._units["scale"], SCALE_STEPS)
        self._begin_bias(self._last)

    def round(self, values: Mapping[str, F32]) -> QuantizedTensor:
        """The codes with the scales of a state, as they are stored; the tensor itself where none of them moved."""
        if not self.learn_scales:
            return self.tensor
        units = values[f"{self.name}/scale"]
        scales = np.asarray(units * self._units["scale"], np.float32).reshape(self._planned.shape)
        kept = (units == SCALE_STEPS).reshape(self._planned.shape)
        if kept.all():
            return self.tensor
        return with_channel_scales(self.tensor, np.where(kept, self._planned, scales))

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role: rounded weights in the operator's own shape, and the bias."""
        tensor = self.round(values)
        self._last, self._read = tensor.dequantize(), channel_scales(tensor).reshape(-1, 1)
        return self._fed(self._last, values)

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role; scales straight through."""
        made: Arrays = {}
        if self.learn_scales and "weight" in found:
            each = to_rows(self.op, found["weight"]) * self._last
            summed = each.sum(axis=1, keepdims=True) if len(self._read) > 1 else each.sum().reshape(1, 1)
            made[f"{self.name}/scale"] = np.asarray(summed * self._units["scale"] / self._read, np.float32)
        return made | self._bias_gradient(found)

    def hold(self, values: Mapping[str, F32]) -> None:
        """Keep scales in their limits, in place."""
        if not self.learn_scales:
            return
        scale, (low, high) = values[f"{self.name}/scale"], SCALE_LIMITS
        np.clip(scale, low, high, out=scale)
        if self.least_shares is not None:
            least = np.minimum(self.least_shares, 1).reshape(-1, 1) * np.float32(SCALE_STEPS)
            np.maximum(scale, least.max() if len(scale) == 1 else least, out=scale)

    def moved(self, values: Mapping[str, F32]) -> F32:
        """How far each stored scale moved, as a share of what it was, (C,) or (1,); empty where none is trained."""
        if not self.learn_scales:
            return np.zeros(0, np.float32)
        stored = channel_scales(self.round(values))
        return np.asarray(np.abs(stored.reshape(-1) / self._planned.reshape(-1) - 1), np.float32)
