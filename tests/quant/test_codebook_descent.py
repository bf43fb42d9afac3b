"""Levels of a learned table: against real losses in float64, every other single level, and the codes that follow."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.codebook import LearnedTable
from lpcompile.quant.codebook_descent import descended
from lpcompile.quant.codebook_search import Fitting
from lpcompile.quant.gptq import gptq
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from tests.support_gram import gram, losses, weights

GRANULARITIES = ("channel", "tensor", "group")
TABLE = LearnedTable.from_levels(
    np.array([-127, -70, -60, -50, -40, -30, -20, 0, 15, 25, 35, 45, 55, 65, 75, 120], np.int8)
)


def rounded(w: F32, h: F64, granularity: str, fmt: NumberFormat = TABLE) -> QuantizedTensor:
    return gptq(w, Fitting(granularity, 8, "mse").fit(w, fmt), h)


def levels_of(fmt: NumberFormat) -> np.ndarray:
    image = fmt.image()
    assert image is not None
    return image.astype(np.int64)


def with_levels(tensor: QuantizedTensor, levels: np.ndarray) -> QuantizedTensor:
    """Other levels, the same codes and steps: the largest is 127 before and after."""
    return replace(tensor, format=LearnedTable.from_levels(levels.astype(np.int8)))


@pytest.mark.sweep
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_single_level_is_better(granularity: str, count: int, seed: int) -> None:
    """The loss falls, and every other place of every level, decoded as it would be stored, loses more."""
    w, h = weights(16, 24, seed), gram(24, count=count, seed=seed)
    tensor = rounded(w, h, granularity)
    fmt = descended(w, tensor, h)
    levels = levels_of(fmt)
    least = losses(w, with_levels(tensor, levels), h).sum()
    assert least < losses(w, tensor, h).sum()
    for j in range(1, 16):
        below, above = levels[j - 1] + 1, levels[j + 1] if j < 15 else 128
        for v in range(below, above) if levels[j] else ():
            other = np.where(np.arange(16) == j, v, levels)
            assert losses(w, with_levels(tensor, other), h).sum() >= least * (1 - 1e-9)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_order_zero_and_the_largest_level_stay(granularity: str) -> None:
    w, h = weights(16, 24), gram(24)
    levels = levels_of(descended(w, rounded(w, h, granularity), h))
    assert (np.diff(levels) > 0).all()
    assert levels[7] == 0
    assert np.abs(levels).max() == 127


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("start", ["fixp4", "posit4", "float4_e2m1fn"])
def test_small_tables_are_spread_over_the_int8_axis(granularity: str, start: str) -> None:
    """The images of formats, with multiples that are exact or declared: a unit of theirs is many of the new table."""
    image = resolve(start).image()
    assert image is not None
    w, h = weights(64, 32), gram(32)
    tensor = rounded(w, h, granularity, LearnedTable.from_levels(image))
    levels = levels_of(descended(w, tensor, h))
    assert np.abs(levels).max() == 127
    assert set(np.sign(levels)) == {-1, 0, 1}
    scale = channel_scales(tensor).astype(np.float64).reshape(-1, 1) * np.abs(image.astype(int)).max() / 127
    values = scale * levels[tensor.codes]
    if granularity == "group":
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape)
        values = scale * 15 * np.rint(m * levels[tensor.codes] / 15)
    errors = w - values
    spread = np.rint(image * (127 / np.abs(image.astype(int)).max()))
    plain = scale * spread[tensor.codes]
    if granularity == "group":
        plain = scale * 15 * np.rint(m * spread[tensor.codes] / 15)
    at_first = np.einsum("rk,kl,rl->", w - plain, h[0], w - plain)
    assert np.einsum("rk,kl,rl->", errors, h[0], errors) <= at_first


def test_damping_is_part_of_the_loss() -> None:
    w, h = weights(16, 24), gram(24)
    damped = h + 2.0 * np.diagonal(h[0]).mean() * np.eye(24)
    tensor = rounded(w, h, "channel")
    assert descended(w, tensor, h, damping=2.0) == descended(w, tensor, damped)
    assert descended(w, tensor, h, damping=2.0) != descended(w, tensor, h)


def test_rows_of_any_matrix_and_some_rows() -> None:
    w, h = weights(16, 24), gram(24, count=4)
    groups = np.arange(16) % 4
    tensor = rounded(w, h, "channel")
    order = np.argsort(groups, kind="stable")
    assert isinstance(tensor.scales, np.ndarray)
    sorted_rows = replace(tensor, codes=tensor.codes[order], scales=tensor.scales[order])
    assert descended(w, tensor, h, groups) == descended(w[order], sorted_rows, h)
    some = replace(tensor, codes=tensor.codes[::4], scales=tensor.scales[::4])
    few = descended(w, tensor, h, most_products=4 * 24**2)
    assert few == descended(w[::4], some, h)


def test_weights_of_one_code_move_one_level() -> None:
    """A closed form: all weights alike, one input; the level goes where weights lie."""
    w = np.full((4, 1), 0.3, np.float32)
    w[0] = 1.2
    tensor = Fitting("tensor", 0, "absmax").fit(w, TABLE)
    levels = levels_of(descended(w, tensor, np.ones((1, 1, 1))))
    assert sorted(set(levels) - set(levels_of(TABLE))) == [30]
