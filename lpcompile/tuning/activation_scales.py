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
LEARNED = "learned"
LIMITS = (STEPS / 4, STEPS * 2)


@dataclass(frozen=True)
class TunedScale:
    """The scale of the quantisers of one tie group.

    Attributes:
        node: name of the node that reads it.
        plan: of its tensors, as it is now.
        least: the scale may not fall below this; at most the planned one.
    """

    node: str
    plan: ActivationPlan
    least: float = 0.0
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
        low, high = LIMITS
        least = min(STEPS, self.least / float(self._unit))
        np.clip(values[self._key], max(low, least), high, out=values[self._key])

    def planned(self, values: Mapping[str, F32]) -> ActivationPlan:
        """The plan with the learned scale; the plan itself where it did not move."""
        scale = self.scale(values)
        if scale == self.plan.scale:
            return self.plan
        rule = self.plan.rule if LEARNED in self.plan.rule else f"{self.plan.rule}, {LEARNED}".lstrip(", ")
        return replace(self.plan, scale=scale, rule=rule, start=self.plan.start or self.plan.scale)
