"""What a fit is estimated to lose, beside what it loses."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.quant.coarse_fit import CHANNEL, CoarseFit

ROWS = np.random.default_rng(3).standard_normal((24, 96)).astype(np.float32)
IMPORTANCE = np.random.default_rng(4).uniform(0.2, 3, 96).astype(np.float32)


@pytest.mark.parametrize("sizes", [[CHANNEL], [8], [8, 16, 32], [24, CHANNEL], [8, 20, CHANNEL]], ids=str)
@pytest.mark.parametrize("name", ["fixp4", "nf4", "posit4"])
def test_estimates_are_near_what_is_lost(sizes: list[int], name: str) -> None:
    fit = CoarseFit(ROWS, IMPORTANCE, sizes)
    found = list(fit.estimates(resolve(name)))
    assert [e.size for e in found] == sorted(sizes, key=lambda s: s or 1 << 20)
    for estimate in found:
        errors = fit.fitted(estimate).dequantize().astype(np.float64) - ROWS
        lost = float((errors**2 * IMPORTANCE).sum())
        assert estimate.loss == pytest.approx(lost, rel=0.08)


def test_a_size_is_estimated_alike_alone_and_among_others() -> None:
    """Curves of larger groups are put together from those of smaller ones."""
    alone = {
        s: next(iter(CoarseFit(ROWS, IMPORTANCE, [s]).estimates(resolve("fixp4")))).loss
        for s in (8, 16, 32, 0)
    }
    together = {
        e.size: e.loss for e in CoarseFit(ROWS, IMPORTANCE, [8, 16, 32, 0]).estimates(resolve("fixp4"))
    }
    for size, loss in together.items():
        assert loss == pytest.approx(alone[size], rel=0.06)
