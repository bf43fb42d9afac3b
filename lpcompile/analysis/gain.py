"""What a step gained on samples, in dB of output noise, with its standard error."""

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
