"""What a step gained on samples, in dB of output noise, with its standard error.

The gain is paired: both sides see the same samples. Of 12 samples the error is that of 12 differences, as honest as so
few can be; of a single one it is not known (infinite), and what decides by the gain rests on that sample alone.
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F64

_TINY = 1e-300


def gain_db(before: F64, after: F64) -> tuple[float, float]:
    """10 log10 of the mean noise before over that after, and its standard error by the delta method.

    Args:
        before: noise power of samples (or calls).
        after: of the same ones.
    """
    means = max(float(before.mean()), _TINY), max(float(after.mean()), _TINY)
    gain = 10 * np.log10(means[0] / means[1])
    if len(before) < 2:
        return float(gain), float("inf")
    relative = before / means[0] - after / means[1]
    error = 10 / np.log(10) * relative.std(ddof=1) / np.sqrt(len(before))
    return float(gain), float(error)


@dataclass(frozen=True)
class Gain:
    """What a step gains.

    Attributes:
        db: of output SQNR.
        standard_error_db: of `db`, from the spread over samples; infinite for one.
    """

    db: float
    standard_error_db: float

    @classmethod
    def of(cls, before: F64, after: F64) -> "Gain":
        """From the noise of each sample, (N,) and (N,); 0 dB where there was none before, -inf where it is lost."""
        low, high = float(before.mean()), float(after.mean())
        if low <= 0 or high <= 0 or not np.isfinite(high):
            return cls(0.0 if low <= 0 else float("-inf"), 0.0)
        return cls(*gain_db(before, after))
