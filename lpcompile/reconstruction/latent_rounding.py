"""Latent weights, rounded straight through, that are pulled to their level more and more.

Without the pull many end up beside a threshold and cross it with every step: what the last step happens to leave is no
better than what the steps before did. The pull is the gradient of p r (w - w^)^2 / 2, in steps of the quantiser, as the
mean over weights; r rises from 0 to 1 by half a cosine. [nagel2022, dampening]
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.tuning.parameters import TunedLayer

Arrays = dict[str, F32]


@dataclass
class LatentLayer(TunedLayer):
    """A layer with latent weights.

    Attributes:
        pull: p above, in units of the loss before the first step.
        done: share of the steps that are over.
    """

    pull: float = 0.0
    done: float = 0.0

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role."""
        made = super().gradients(found)
        key = f"{self.name}/weight"
        if self.pull and key in made:
            assert self._last is not None
            latent, rounded = self._last
            rising = 0.5 * (1 - math.cos(math.pi * self.done))
            factor = np.float32(self.pull * rising / latent.size)
            made[key] = made[key] + factor * (latent - rounded) / self._units["weight"]
        return made
