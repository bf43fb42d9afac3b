"""Moments that stand for those of a convolution's inputs where there are no samples."""

import numpy as np

from lpcompile.quant.assumed_moments import ALIKE, COMMON, MOST_INPUTS, assumed_gram
from lpcompile.quant.dual_precision import Stages
from lpcompile.quant.dual_rounding import DualRounding, dual_rounded
from tests.support_gram import weights


def test_by_hand() -> None:
    found = assumed_gram(2, 3)
    assert found is not None
    for i in range(6):
        for j in range(6):
            alike = 1.0 if i == j else ALIKE if i // 3 == j // 3 else 0.0
            assert found[0, i, j] == np.float32((1 - COMMON) * alike + COMMON)
    assert np.linalg.eigvalsh(found[0]).min() > 0
    assert assumed_gram(MOST_INPUTS, 2) is None


def test_sums_of_kernels_are_kept() -> None:
    """What constant inputs see of a kernel is its sum."""
    w = weights(8, 36)
    stages = Stages.of(w, 64)
    wanted = w.reshape(8, 4, 9).sum(axis=2)
    errors = [
        np.abs(
            dual_rounded(stages, gram, DualRounding("levels", "gar"))
            .dequantize()
            .reshape(8, 4, 9)
            .sum(axis=2)
            - wanted
        )
        for gram in (assumed_gram(4, 9), None)
    ]
    assert errors[0].mean() < 0.5 * errors[1].mean()
