"""Limited scales of posits, with the figures of the paper notes."""

import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.quant import scales as rules
from lpcompile.quant.fit import fit
from lpcompile.quant.qtensor import QuantizedTensor
from tests.bench.experiments.scale_regimes import REGIMES, best_divisor

POSIT = resolve("posit4")


def normal(deviation: float, count: int = 200_000) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((4, count // 4)) * deviation).astype(np.float32)


@pytest.mark.parametrize(
    ("deviation", "label"), [(0.75, "posit4"), (0.185, "sc4"), (0.0925, "sc8"), (0.14, "sc4"), (0.12, "sc8")]
)
def test_the_divisor_that_suits_a_deviation(deviation: float, label: str) -> None:
    """Notes 2.5: raw for sigma 0.7 to 0.8, sc,4 for 0.17 to 0.20, sc,8 for 0.085 to 0.10, switching near 0.13."""
    assert best_divisor(normal(deviation), POSIT, "fixed").label == label


def test_unit_deviation_clips_the_scaled_forms() -> None:
    """Notes 2.5: MSE 0.0177 raw, 0.157 for sc,4 and 0.420 for sc,8."""
    w = normal(1.0)
    levels = np.unique(POSIT.grid())
    for d, mse in ((1, 0.0177), (4, 0.157), (8, 0.420)):
        found = (np.abs(w[..., None] - levels / d).min(axis=-1) ** 2).mean()
        assert found == pytest.approx(mse, rel=0.02)
    best = best_divisor(w, POSIT, "fixed")
    assert (best.divisor, best.scale) == (1, 1.0)
    assert best.error / w.size == pytest.approx(0.0177, rel=0.02)


def test_a_freer_scale_is_never_worse() -> None:
    for deviation in (0.03, 0.11, 0.5, 3.0):
        fixed, power, free = (best_divisor(normal(deviation, 4000), POSIT, r).error for r in REGIMES)
        assert free <= power * (1 + 1e-6)
        assert power <= fixed * (1 + 1e-6)


def test_a_free_scale_suits_a_normal_distribution_as_the_notes_say() -> None:
    """Notes 2.5: 1.25 standard deviations divided by 4 in units of the codes 1/4..4, that is s = 1.25 sigma / d."""
    found = best_divisor(normal(1.0), POSIT, "free")
    assert found.scale == pytest.approx(1.25, rel=0.06)
    assert found.error / 200_000 == pytest.approx(0.0150, rel=0.02)


def test_powers_of_two_by_trying_them_all() -> None:
    w = normal(0.37, 4000)
    grid = np.unique(POSIT.grid())
    losses = {k: (np.abs(w[..., None] - 2.0**k * grid).min(-1) ** 2).sum() for k in range(-12, 6)}
    found = best_divisor(w, POSIT, "power-of-two")
    assert found.scale == 2.0 ** min(losses, key=losses.__getitem__)
    assert found.error == pytest.approx(min(losses.values()), rel=1e-4)


@pytest.mark.parametrize("name", ["posit4", "fixp4", "nf4", "float4_e2m1fn"])
@pytest.mark.parametrize("scale_format", ["float32", "ufloat8_e4m4"])
def test_the_rules_of_fit_keep_to_their_regime(name: str, scale_format: str) -> None:
    w = normal(0.1, 4000) * np.geomspace(0.2, 5, 4, dtype=np.float32)[:, None]
    powers = fit(w, resolve(name), rule="power-of-two", scale_format=scale_format)
    scales = powers.scales.dequantize() if isinstance(powers.scales, QuantizedTensor) else powers.scales
    assert set(np.frexp(scales)[0]) == {0.5}
    assert len(set(scales)) > 1
    fixed = fit(w, resolve(name), rule="fixed", scale_format=scale_format)
    scales = fixed.scales.dequantize() if isinstance(fixed.scales, QuantizedTensor) else fixed.scales
    assert len(set(scales)) == 1
    assert float(scales[0]) in (1, 1 / 4, 1 / 8)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(FormatError, match="no scale regime is called 'loose'"):
        best_divisor(normal(1, 100), POSIT, "loose")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="NaN"):
        best_divisor(np.full((2, 2), np.nan, np.float32), POSIT, "free")
    with pytest.raises(FormatError, match="does not go with group scales"):
        fit(normal(1, 400), POSIT, rule="fixed", granularity="group")
    assert best_divisor(np.zeros((2, 3), np.float32), POSIT, "power-of-two").error == 0


@pytest.mark.thorough
def test_maximum_entropy_of_a_normal_distribution() -> None:
    """Notes 2.4 (b): step 0.2 sigma, 3.94 bits, MSE 0.0499 sigma^2; the MSE-optimal step 0.339 has 3.59 bits."""
    w = normal(1.0).reshape(1, -1)
    levels = resolve("int4").nearest
    step = rules.maxent(w, levels)
    assert step[0] == pytest.approx(0.2, rel=0.04)
    assert rules.code_entropy_bits(w, step, levels)[0] == pytest.approx(3.94, abs=0.01)
    at = np.array([0.2])
    assert rules.squared_error(w, at, levels)[0] / w.size == pytest.approx(0.0499, rel=0.02)
    best = rules.mse(w, levels)
    assert best[0] == pytest.approx(0.339, rel=0.03)
    assert rules.code_entropy_bits(w, best, levels)[0] == pytest.approx(3.59, abs=0.03)
    assert rules.squared_error(w, best, levels)[0] / w.size == pytest.approx(0.0119, rel=0.02)


def test_entropy_preserving_normalisation() -> None:
    """Notes 2.4 (a): w' = w * 2^(b-1) / (2^b - 1) * n / |W|_1, clipped to [-1, 1] and rounded to the grid."""
    w = normal(0.3, 4000)
    for row, codes in zip(w, fit(w, resolve("fixp4"), rule="l1norm").codes, strict=True):
        normalised = np.clip(row.astype(np.float64) * (8 / 15) * len(row) / np.abs(row).sum(), -1, 1)
        grid = np.arange(-8, 8) / 8
        wanted = np.abs(normalised[:, None] - grid).argmin(axis=1) - 8
        assert (wanted == ((codes.astype(np.int64) + 8) % 16 - 8)).mean() > 0.999  # but for ties
