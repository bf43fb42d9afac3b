"""AdaRound: each weight lies between two neighbouring levels, and where is learned until it is one of them.

w^ = s (low + h(v) (high - low)),  h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1),  h(v) starts where the weight lies. A pull
to 0 or 1 is added to the loss: the mean over weights of 1 - |2 h - 1|^b, b falling from 20 to 2. [nagel2020]
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.reconstruction.latent_rounding import LatentLayer

Arrays = dict[str, F32]
LOW, HIGH = np.float32(-0.1), np.float32(1.1)  # what the sigmoid is stretched to
UNIT = np.float32(5.0)  # of v, in learning rates of weights in steps of their quantiser
WARM_UP = 0.2  # share of the steps without the pull
SHARP, BLUNT = 20.0, 2.0
_INSIDE = np.float32(0.01)


@dataclass
class SoftLayer(LatentLayer):
    """A layer whose rounding is learned; its channel scales stay.

    Attributes:
        hard: whether the model reads levels, not what lies between.
    """

    hard: bool = False

    def __post_init__(self) -> None:
        self.learn_scales = False
        super().__post_init__()
        latent = np.asarray(self._start.pop("weight") * self._units.pop("weight"), np.float32)
        cells = self.quantiser.cells(latent, self.tensor.dequantize())
        self._low = cells.low * self.quantiser.scales
        self._gap = (cells.high - cells.low) * self.quantiser.scales
        share = np.clip((cells.x - cells.low) / (cells.high - cells.low), _INSIDE, 1 - _INSIDE)
        p = (share - LOW) / (HIGH - LOW)
        self._read: tuple[F32, F32] = (share, p)
        self._start["rounding"] = np.asarray(np.log(p / (1 - p)) / UNIT, np.float32)

    def _share(self, values: Mapping[str, F32]) -> tuple[F32, F32]:
        """H and the sigmoid, (C, K)."""
        p = 1 / (1 + np.exp(-UNIT * values[f"{self.name}/rounding"]))
        return np.clip(p * (HIGH - LOW) + LOW, 0, 1), p

    def round(self, values: Mapping[str, F32]) -> QuantizedTensor:
        """Codes of the nearer levels."""
        h, _ = self._share(values)
        return self.quantiser.round(np.asarray(self._low + (h >= 0.5) * self._gap, np.float32))

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role: weights between their levels (or at them), and the bias."""
        if self.hard:
            rows = self.round(values).dequantize()
        else:
            self._read = self._share(values)
            rows = np.asarray(self._low + self._read[0] * self._gap, np.float32)
        return self._fed(rows, values)

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role."""
        made: Arrays = {}
        if "weight" in found:
            h, p = self._read
            slope = np.where((h > 0) & (h < 1), p * (1 - p) * (HIGH - LOW) * UNIT, np.float32(0))
            towards = to_rows(self.op, found["weight"]) * self._gap
            made[f"{self.name}/rounding"] = np.asarray((towards + self._pull(h)) * slope, np.float32)
        return made | self._bias_gradient(found)

    def _pull(self, h: F32) -> F32:
        """Gradient of the pull by h."""
        if self.done < WARM_UP:
            return np.zeros_like(h)
        over = (self.done - WARM_UP) / (1 - WARM_UP)
        b = BLUNT + (SHARP - BLUNT) * 0.5 * (1 + np.cos(np.pi * over))
        away = 2 * h - 1
        factor = np.float32(-2 * self.pull * b / h.size)
        return np.asarray(factor * np.sign(away) * np.abs(away) ** np.float32(b - 1), np.float32)
