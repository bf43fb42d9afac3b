"""Learned clipping: the scale of an activation's quantiser, by the gradient of learned step sizes.

x^ = s (clip(rne(x / s), -z, top - z)) has dx^/ds = rne(v) - v inside the range and the end of it outside, v = x / s.
[esser2020]
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.plan import ActivationPlan

Arrays = dict[str, F32]
STEPS = 2.0  # a scale starts at so many units: steps of the rate 0.01 move it by half a percent
LIMITS = (STEPS / 4, STEPS * 2)


@dataclass(frozen=True)
class TunedScale:
    """The scale of the quantisers of one tie group.

    Attributes:
        node: name of the node that reads it.
        plan: of its tensors, as it is now.
    """

    node: str
    plan: ActivationPlan
    running: bool = False

    @property
    def name(self) -> str:
        """Name of the node that reads it."""
        return self.node

    @property
    def roles(self) -> Mapping[str, int]:
        """What is trained of the node."""
        return {"scale": 0}

    @property
    def _key(self) -> str:
        return f"{self.node}/scale"

    @property
    def _unit(self) -> np.float32:
        return np.float32(self.plan.scale / STEPS)

    def start(self) -> Arrays:
        """The scale before training, in units."""
        return {self._key: np.full((1,), STEPS, np.float32)}

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """The scale, a scalar."""
        return {"scale": np.asarray(self.scale(values), np.float32)}

    def scale(self, values: Mapping[str, F32]) -> float:
        """The scale, a float32 value; the planned one, exactly, where it did not move."""
        units = float(values[self._key][0])
        return self.plan.scale if units == STEPS else float(np.float32(units) * self._unit)

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradient of the scale, in units."""
        return {self._key: np.asarray(found["scale"].reshape(1) * self._unit, np.float32)} if found else {}

    def hold(self, values: Mapping[str, F32]) -> None:
        """Keep the scale in its limits, in place."""
        np.clip(values[self._key], *LIMITS, out=values[self._key])

    def planned(self, values: Mapping[str, F32]) -> ActivationPlan:
        """The plan with the learned scale."""
        return replace(self.plan, scale=self.scale(values))
