"""Rounding that keeps kernel sums, against the same greedy moves one kernel at a time."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.kernel_rounding import MOST_MOVES, _neighbours, round_kernels, tap_correlation
from lpcompile.quant.qtensor import QuantizedTensor

TAPS = 9
UNIFORM = ["int8", "int8_narrow", "int4", "fixp4"]


def weights(rows: int = 40, kernels: int = 30) -> F32:
    return np.random.default_rng(0).standard_normal((rows, kernels * TAPS)).astype(np.float32)


def output_error(w: F32, tensor: QuantizedTensor, rho: float) -> F64:
    """J of every kernel in squared steps of its row, (rows * kernels,)."""
    w8, scale = tensor.int8_image()
    e = (w8 - w.astype(np.float64) / scale.reshape(-1, 1)).reshape(-1, TAPS)
    return np.asarray((1 - rho) * (e**2).sum(1) + rho * e.sum(1) ** 2)


def one_by_one(w: F32, tensor: QuantizedTensor, rho: float) -> QuantizedTensor:
    w8, scale = tensor.int8_image()
    image = tensor.format.image()
    assert image is not None
    exact = (w / np.broadcast_to(scale.reshape(-1, 1), (len(w), 1))).reshape(-1, TAPS)
    moved = w8.astype(int).reshape(-1, TAPS)
    for kernel, real in zip(moved, exact, strict=True):
        for _ in range(MOST_MOVES):
            e = kernel - real.astype(np.float64)
            sign = int(np.sign(e.sum()))
            worst = int((e * sign).argmax())
            gain = (1 - rho) * (1 - 2 * e[worst] * sign) + rho * (1 - 2 * abs(e.sum()))
            if gain >= -1e-6 or not image.min() <= kernel[worst] - sign <= image.max():
                break
            kernel[worst] -= sign
    codes = {int(v): c for c, v in reversed(list(enumerate(image)))}
    found = np.array([codes[v] for v in moved.reshape(-1)], np.uint8)
    return QuantizedTensor(found.reshape(w8.shape), tensor.format, tensor.granularity, tensor.scales)


@pytest.mark.parametrize("rho", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_levels_move_as_one_by_one(name: str, rho: float) -> None:
    w = weights()
    nearest = fit(w, resolve(name), rule="mse")  # clips, so that some codes stand at the ends
    found = round_kernels(w, nearest, TAPS, rho)
    assert np.array_equal(found.codes, one_by_one(w, nearest, rho).codes)
    assert (found.codes != nearest.codes).any()


@pytest.mark.parametrize("name", [*UNIFORM, "posit4", "nf4"])
def test_no_kernel_gets_worse(name: str) -> None:
    w = weights()
    nearest = fit(w, resolve(name), rule="absmax")
    before = output_error(w, nearest, 0.5)
    after = output_error(w, round_kernels(w, nearest, TAPS, 0.5), 0.5)
    assert (after <= before + 1e-4).all()
    assert after.sum() < 0.9 * before.sum()


def test_nothing_moves_without_correlation_or_neighbours() -> None:
    w = weights()
    nearest = fit(w, resolve("int8"))
    assert round_kernels(w, nearest, 1, 0.9) is nearest
    assert round_kernels(w, nearest, 7, 0.9) is nearest  # rows are no whole number of such kernels
    assert np.array_equal(round_kernels(w, nearest, TAPS, 0.0).codes, nearest.codes)


def test_equal_weights_give_a_tie_that_the_first_tap_wins() -> None:
    w = np.full((1, TAPS), 0.26, np.float32)
    nearest = QuantizedTensor(np.zeros((1, TAPS), np.uint8), resolve("int8"), fit(w, resolve("int8")).granularity,
                              np.ones(1, np.float32))  # fmt: skip
    found = round_kernels(w, nearest, TAPS, 1.0)
    assert found.codes.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0, 0]]


def test_correlation_of_taps() -> None:
    assert tap_correlation((1, 1), 0.9) == 0
    assert tap_correlation((2,), 0.5) == pytest.approx(0.5)
    assert tap_correlation((3,), 0.5) == pytest.approx((0.5 + 0.5 + 0.25) / 3)


def test_neighbours_in_each_row_of_a_table() -> None:
    rows = np.array([[0, 3, 3, -2], [5, 1, 7, 1], [2, 2, 2, 2]], np.float32)
    up, down = _neighbours(rows.reshape(-1), 2)
    for r, row in enumerate(rows):
        for code, level in enumerate(row):
            above, below = row[row > level], row[row < level]
            at = 4 * r + code
            assert up[at] // 4 == down[at] // 4 == r
            assert row[up[at] % 4] == (above.min() if above.size else level)
            assert row[down[at] % 4] == (below.max() if below.size else level)
