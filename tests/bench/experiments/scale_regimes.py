"""Scales of posits that are limited: fixed, or powers of two, times a divisor. [azizi2023; notes sec. 2.5].

`W^ = s * P(code) / d` with d in {1, 4, 8}: posit4, posit4sc,4, posit4sc,8. They are the same codes at other scales,
so with a free s the divisor says nothing; it matters where s is 1 or one normalisation for all, or limited to powers
of two. Scale rules "fixed" and "power-of-two" of `fit` are these regimes, for scales per tensor or channel.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import NumberFormat
from lpcompile.quant import scales as rules
from lpcompile.quant.fit import layer_levels
from lpcompile.quant.scales import DIVISORS

LABELS = {1: "posit4", 4: "sc4", 8: "sc8"}
Regime = Literal["fixed", "power-of-two", "free"]
REGIMES: tuple[Regime, ...] = ("fixed", "power-of-two", "free")


@dataclass(frozen=True)
class ScaledFit:
    """A format at the scale that a regime allows.

    Attributes:
        scale: of the format's grid, `s / d`, one for the tensor.
        divisor: d, or of a free scale or a power of two the nearest label: |log(scale * d)| is least.
        error: sum of importance * (w - W^)^2.
    """

    scale: float
    divisor: int
    error: float

    @property
    def label(self) -> str:
        """posit4, sc4 or sc8."""
        return LABELS[self.divisor]


def best_divisor(
    w: F32, fmt: NumberFormat, regime: Regime, *, importance: F32 | None = None, scale: float = 1.0
) -> ScaledFit:
    """The best scale for a tensor that a regime allows.

    Args:
        w: (C, K) float32, finite and not empty.
        fmt: of the codes.
        regime: "fixed" (`scale` over 1, 4 or 8), "power-of-two", or "free".
        importance: (K,) weights of the squared errors; None: all alike.
        scale: the fixed one, 1 or a normalisation that layers share.

    Raises:
        FormatError: no such regime, or weights that are empty or no numbers.
    """
    if regime not in REGIMES:
        raise FormatError(f"no scale regime is called {regime!r}", hint="use one of " + ", ".join(REGIMES))
    if not w.size or not np.isfinite(w).all():
        raise FormatError("weights are empty or hold NaN or infinity", hint="leave this layer in float")
    flat = np.ascontiguousarray(w, np.float32).reshape(1, -1)
    tiled = None if importance is None else np.tile(np.asarray(importance, np.float32), len(w))
    levels = layer_levels(fmt)

    def error(scale: float) -> float:
        unit = np.asarray([scale * fmt.image_scale])
        return float(rules.squared_error(flat, unit, levels, tiled)[0])

    if regime == "fixed":
        loss, d = min((error(scale / d), d) for d in DIVISORS)
        return ScaledFit(scale / d, d, loss)
    if not flat.any():
        return ScaledFit(scale, 1, 0.0)
    unit = fmt.image_scale
    found = (
        rules.mse(flat, levels, tiled) if regime == "free" else rules.power_of_two(flat, levels, unit, tiled)
    )
    best = float(found[0]) / unit
    return ScaledFit(best, min(DIVISORS, key=lambda d: abs(np.log(best / scale * d))), error(best))
