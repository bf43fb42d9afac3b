"""Scale rules against published figures and brute force."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.quant import scales as rules
from lpcompile.quant.fit import layer_levels


def generalised_gaussian(shape: float, count: int) -> np.ndarray:
    """Quantiles of the density exp(-|x|**shape), scaled to variance 1: a sample without sampling noise."""
    x = np.linspace(0, 60 ** (1 / shape), 400_001)  # the density has fallen to e**-60 there
    density = np.exp(-(x**shape))
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    positive = np.interp((np.arange(count) + 0.5) / count, mass / mass[-1], x)
    sample = np.concatenate([-positive, positive])
    found: np.ndarray = (sample / np.sqrt(np.mean(sample**2))).astype(np.float32)[None, :]
    return found


# Mixed-posit notes 6.5: kurtosis, best-scale MSE in units of the variance; shape 2 is Gaussian, 1 Laplace.
BEST_MSE = {
    4.0: (
        2.19,
        {"fixp4": 0.0073, "posit4": 0.0118, "posit4es1": 0.0351, "pot4": 0.0350, "float4_e2m1fn": 0.0113},
    ),
    2.0: (
        3.0,
        {"fixp4": 0.0119, "posit4": 0.0150, "posit4es1": 0.0381, "pot4": 0.0377, "float4_e2m1fn": 0.0127},
    ),
    1.0: (
        6.0,
        {"fixp4": 0.0253, "posit4": 0.0221, "posit4es1": 0.0392, "pot4": 0.0383, "float4_e2m1fn": 0.0185},
    ),
    0.5: (
        25.2,
        {"fixp4": 0.0633, "posit4": 0.0386, "posit4es1": 0.0449, "pot4": 0.0399, "float4_e2m1fn": 0.0417},
    ),
}


@pytest.mark.parametrize("shape", BEST_MSE)
def test_best_mse_of_the_notes(shape: float) -> None:
    kurtosis, expected = BEST_MSE[shape]
    w = generalised_gaussian(shape, 40_000)
    assert np.mean(w.astype(np.float64) ** 4) == pytest.approx(
        kurtosis, rel=0.05
    )  # the far tail ends with the sample
    for name, value in expected.items():
        levels = resolve(name).nearest
        s = rules.mse(w, levels)
        found = float(rules.squared_error(w, s, levels)[0]) / w.size
        assert found == pytest.approx(value, rel=0.02), name


def test_nf4_mse_of_the_notes() -> None:
    for shape, value in [(2.0, 0.0099), (1.0, 0.0167)]:
        w = generalised_gaussian(shape, 40_000)
        levels = resolve("nf4").nearest
        assert float(rules.squared_error(w, rules.mse(w, levels), levels)[0]) / w.size == pytest.approx(
            value, rel=0.02
        )


def test_steps_of_fixp4_on_gaussian_data() -> None:
    """2.4: MSE-optimal step 0.339 sigma, H = 3.59 bits; maximum entropy 0.2 sigma, H = 3.94, MSE 0.0499."""
    w = generalised_gaussian(2.0, 40_000)
    levels = layer_levels(resolve("fixp4"))  # steps of 1
    best = rules.mse(w, levels)
    assert best[0] == pytest.approx(0.339, rel=0.02)
    assert rules.code_entropy_bits(w, best, levels)[0] == pytest.approx(3.59, abs=0.01)
    even = rules.maxent(w, levels)
    assert even[0] == pytest.approx(0.2, rel=0.03)
    assert rules.code_entropy_bits(w, even, levels)[0] == pytest.approx(3.94, abs=0.01)
    assert rules.squared_error(w, np.array([0.2]), levels)[0] / w.size == pytest.approx(0.0499, rel=0.02)


def test_raw_posit_scale_of_the_notes() -> None:
    """2.5: raw posit4 wants a scale of 1.25 sigma (Gaussian) or 1.46 sigma (Laplace)."""
    levels = resolve("posit4").nearest
    for shape, scale in [(2.0, 1.25), (1.0, 1.46)]:
        assert rules.mse(generalised_gaussian(shape, 40_000), levels)[0] == pytest.approx(scale, rel=0.02)


def test_mse_search_is_near_the_dense_optimum() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_t(5, (12, 300)).astype(np.float32) * rng.uniform(0.01, 2, (12, 1)).astype(np.float32)
    importance = rng.uniform(0.1, 3, 300).astype(np.float32)
    for name in ("int4", "posit4", "nf4", "pot4", "float4_e2m1fn", "int8"):
        levels = layer_levels(resolve(name))
        base = rules.absmax(w, levels)
        dense = np.array(
            [rules.squared_error(w, base * r, levels, importance) for r in np.geomspace(0.1, 4, 1500)]
        )
        found = rules.squared_error(w, rules.mse(w, levels, importance), levels, importance)
        assert (found <= rules.squared_error(w, base, levels, importance)).all()
        assert found.sum() <= 1.01 * dense.min(axis=0).sum(), name


def test_squared_error_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    for shape in [(5, 37), (3, 70_000), (4000, 20)]:
        w = rng.standard_normal(shape).astype(np.float32)
        h = rng.uniform(0, 2, shape[1]).astype(np.float32)
        s = rng.uniform(0.1, 0.5, shape[0])
        fmt = resolve("posit4")
        levels = fmt.nearest
        s32 = s.astype(np.float32)[:, None]
        error = (w.astype(np.float64) - s32 * fmt.decode(fmt.encode_f32(w, s32)).astype(np.float64)) ** 2
        assert np.allclose(rules.squared_error(w, s, levels), error.sum(axis=1), rtol=1e-4)
        assert np.allclose(rules.squared_error(w, s, levels, h), (error * h).sum(axis=1), rtol=1e-4)


def test_simple_rules_by_hand() -> None:
    w = np.array([[-4, 1, 2, 1], [0, 0, 0, 0], [0, 0, 0, 7]], np.float32)
    levels = resolve("int4").nearest
    assert rules.absmax(w, levels).tolist() == [4 / 7, 0, 1]
    assert rules.percentile(w, levels, 75).tolist() == [2 / 7, 0, 1]  # the last: 75 % are zeros, so absmax
    assert np.allclose(rules.l1norm(w, levels), [2 * 15 / 8 / 8, 0, 7 / 4 * 15 / 8 / 8])


def test_entropy_of_evenly_used_levels() -> None:
    w = np.arange(-8, 8, dtype=np.float32)[None, :]
    levels = resolve("int4").nearest
    assert rules.code_entropy_bits(w, np.array([1.0]), levels)[0] == 4
    assert rules.code_entropy_bits(np.ones((2, 5), np.float32), np.array([1.0, 0.5]), levels).tolist() == [
        0,
        0,
    ]


@pytest.mark.parametrize("name", ["fixp4", "posit4", "nf4", "int8"])
def test_the_power_of_two_is_the_best_there_is(name: str) -> None:
    """Of 41: three powers on either side of the largest weight are enough, for flat rows and for outliers."""
    rng = np.random.default_rng(2)
    levels = layer_levels(resolve(name))
    rows = np.stack(
        [rng.standard_normal(64), rng.uniform(0.7, 1, 64), rng.laplace(size=64), rng.standard_t(2, 64)]
    )
    w = (rows * [[1], [100], [1e-3], [3]]).astype(np.float32)
    found = rules.power_of_two(w, levels, 0.75)
    np.testing.assert_array_equal(np.log2(found / 0.75) % 1, 0)
    tried = np.exp2(np.arange(-20.0, 21))[:, None] * 0.75 * np.ones(len(w))
    losses = np.stack([rules.squared_error(w, s, levels) for s in tried])
    np.testing.assert_allclose(rules.squared_error(w, found, levels), losses.min(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("width", "percent", "place"), [(1, 50.0, 0), (1, 99.9, 0), (4, 50.0, 1), (4, 75.1, 3), (10, 100.0, 9)]
)
def test_the_percentile_is_a_magnitude_of_the_row(width: int, percent: float, place: int) -> None:
    """The least of them that so many per cent do not exceed."""
    w = np.arange(1, width + 1, dtype=np.float32)[None, ::-1] * np.array([[1], [-2]], np.float32)
    levels = layer_levels(resolve("int8"))
    found = rules.percentile(w, levels, percent) * levels.top
    np.testing.assert_allclose(found, [place + 1, 2 * (place + 1)], rtol=1e-6)
