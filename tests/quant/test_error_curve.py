"""Error curves from binned energies against errors of every weight."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.formats.nearest import Nearest
from lpcompile.quant.error_curve import errors, group_energies, paired, relative_errors
from lpcompile.quant.group_search import relative

SCALES = np.geomspace(0.01, 0.2, 9)


def exact(w: np.ndarray, h: np.ndarray, levels: Nearest, scale: float) -> np.ndarray:
    """(R, K) weighted squared errors at one scale, relative to each row's largest magnitude."""
    x = (w / np.abs(w).max(axis=1, keepdims=True)).astype(np.float64)
    return np.asarray(h * (x - scale * levels.round_block((x / scale).astype(np.float32))) ** 2)


@pytest.mark.parametrize("name", ["int4", "posit4", "nf4"])
@pytest.mark.parametrize("columns", [512, 90])
def test_curves_are_near_the_errors_of_single_weights(name: str, columns: int) -> None:
    rng = np.random.default_rng(0)
    w, h = (
        rng.standard_normal((40, columns)).astype(np.float32),
        rng.uniform(0.2, 2, columns).astype(np.float32),
    )
    image = resolve(name).image()
    assert image is not None
    levels = Nearest(image.astype(np.float64) / np.abs(image).max() * 8)
    found = errors(group_energies(relative(w), 16, h), relative_errors(levels, SCALES))
    groups = -(-columns // 16)
    assert found.shape == (len(SCALES), 40 * groups)
    for scale, curve in zip(SCALES, found, strict=True):
        single = exact(w, h, levels, scale)
        assert curve.sum() == pytest.approx(single.sum(), rel=0.02)
        padded = np.zeros((40, groups * 16))
        padded[:, :columns] = single
        by_group = padded.reshape(40 * groups, 16).sum(axis=1)
        assert np.corrcoef(curve, by_group)[0, 1] > 0.97


def test_pairs_of_groups_add_up_and_an_odd_one_stays() -> None:
    curve = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 15)
    found = paired(curve, 5).reshape(2, 3, 3)
    rows = curve.reshape(2, 3, 5)
    assert np.array_equal(
        found, np.stack([rows[..., 0] + rows[..., 1], rows[..., 2] + rows[..., 3], rows[..., 4]], -1)
    )


def test_the_order_of_groups_does_not_change_a_bit() -> None:
    """Sums are of whole numbers below 2**24: the library that multiplies may add in any order."""
    w = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    psi = relative_errors(resolve("int4").nearest, SCALES)
    h = np.ones(64, np.float32)
    whole = errors(group_energies(relative(w), 8, h), psi).reshape(len(SCALES), 40, 8)
    for i in (0, 17, 39):
        alone = errors(group_energies(relative(w[i : i + 1]), 8, h), psi)
        assert np.array_equal(whole[:, i], alone)


def test_rows_of_zeros_have_no_error() -> None:
    w = np.zeros((2, 16), np.float32)
    psi = relative_errors(resolve("int4").nearest, SCALES)
    assert not errors(group_energies(relative(w), 8, np.ones(16, np.float32)), psi).any()
