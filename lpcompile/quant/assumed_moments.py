"""What the inputs of a convolution are taken to be where there are no samples: neighbours alike, means not zero.

Rounded to nearest, the errors of a kernel sum up and meet what all its inputs have in common: on images and behind a
Relu that is most of them. With these moments errors of a kernel cancel, those of one input channel first. The figures
are round ones; 0.5 to 0.9 and 0 to 0.2 all gain (docs/decisions/0043). [squant2022 keeps sums for the same reason]
"""

import numpy as np

from lpcompile.formats.arrays import F32

ALIKE = 0.7  # correlation of the taps of a kernel
COMMON = 0.2  # share of the second moment that all inputs have in common
MOST_INPUTS = 2304  # of a matrix that is factored for it


def assumed_gram(channels: int, taps: int) -> F32 | None:
    """(1, K, K) second moments for the rows of a convolution; None where they are too many.

    Args:
        channels: input channels of a group.
        taps: elements of a kernel.
    """
    if channels * taps > MOST_INPUTS:
        return None
    kernel = (1 - ALIKE) * np.eye(taps) + ALIKE
    return np.asarray((1 - COMMON) * np.kron(np.eye(channels), kernel) + COMMON, np.float32)[None]
