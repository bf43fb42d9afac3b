"""Codes exchanged so that no two neighbouring products leave int16."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.formats.codebook import LearnedTable
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.eighth_image import eighth_image
from lpcompile.quant.fit import fit
from lpcompile.quant.granularity import PerAxis
from lpcompile.quant.neighbours import pairs_saturate
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import side_path
from lpcompile.quant.within_int16 import within_int16

SHAPE = (6, 64)
ORDER = np.arange(SHAPE[1]).reshape(16, 4).T.ravel()  # of a convolution of four taps


def weights(seed: int = 0) -> np.ndarray:
    """Rows whose neighbours are often large together."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(SHAPE) * rng.uniform(0.5, 2, (SHAPE[0], 1))).astype(np.float32)


def of_format(name: str, group: int) -> QuantizedTensor:
    granularity = "group" if group else "channel"
    return fit(weights(), resolve(name), granularity=granularity, group_size=group or 32, rule="absmax")


def changed_pairs(a: QuantizedTensor, b: QuantizedTensor) -> np.ndarray:
    """Which neighbours have other codes, (R, K // 2)."""
    different: np.ndarray = (a.codes != b.codes)[:, ORDER].reshape(len(a.codes), -1, 2).any(axis=2)
    return different


def saturating_pairs(tensor: QuantizedTensor) -> np.ndarray:
    w8 = tensor.int8_image()[0].astype(int)[:, ORDER].reshape(len(tensor.codes), -1, 2)
    found: np.ndarray = np.abs(w8.sum(axis=2)) * 255 > 2**15 - 1
    return found


@pytest.mark.parametrize(
    ("name", "group"),
    [("int8", 0), ("nf4", 0), ("int4", 8), ("fixp4", 16), ("posit4", 16), ("nf4", 32), ("float4_e2m1fn", 16)],
)
def test_only_what_saturates_is_exchanged(name: str, group: int) -> None:
    tensor = of_format(name, group)
    before = saturating_pairs(tensor)
    assert before.any()
    found = within_int16(tensor, weights(), ORDER)
    assert found is not None
    assert not saturating_pairs(found).any()
    np.testing.assert_array_equal(changed_pairs(tensor, found), before)
    assert found.scales is tensor.scales


@pytest.mark.parametrize(("name", "group"), [("int8", 0), ("nf4", 0), ("int4", 8), ("posit4", 16)])
def test_exchanged_codes_are_the_nearest_of_all_that_fit(name: str, group: int) -> None:
    """Every pair of codes there is, by the tensors that they give."""
    tensor, rows = of_format(name, group), weights()
    found = within_int16(tensor, rows, ORDER)
    assert found is not None
    row, pair = (int(i[0]) for i in np.nonzero(saturating_pairs(tensor)))
    at = ORDER[2 * pair : 2 * pair + 2]
    usable = np.flatnonzero(np.isfinite(tensor.format.table()))
    step = (
        1 if tensor.format.bits < 8 else 3
    )  # a third of the codes of 8 bits a side, and those that were taken
    tried = sorted({*usable[::step].tolist(), *found.codes[row, at].tolist()})
    values, images = {}, {}
    for code in tried:
        one = replace(tensor, codes=np.full_like(tensor.codes, code))
        values[code], images[code] = one.dequantize()[row, at], one.int8_image()[0][row, at].astype(int)

    def error(a: int, b: int) -> float:
        if 255 * abs(int(images[a][0] + images[b][1])) > 2**15 - 1:
            return np.inf
        wanted = rows[row, at].astype(np.float64)
        return float((values[a][0] - wanted[0]) ** 2 + (values[b][1] - wanted[1]) ** 2)

    best = min(error(a, b) for a, b in itertools.product(tried, repeat=2))
    assert error(*found.codes[row, at].tolist()) == pytest.approx(best, rel=1e-5)


def test_what_fits_stays_the_tensor_that_it_is() -> None:
    small = of_format("fixp4", 0)
    assert within_int16(small, weights(), ORDER) is small
    wide = of_format("int8", 0)
    assert within_int16(wide, weights(), ORDER, 15) is wide


def test_reserved_codes_are_not_taken() -> None:
    """posit4 has one that stands for no number; its image there is 0, as that of zero is."""
    tensor = of_format("posit4", 16)
    found = within_int16(tensor, np.zeros(SHAPE, np.float32), ORDER)  # zero is what all pairs want
    assert found is not None
    reserved = np.flatnonzero(np.isnan(tensor.format.table()))
    assert len(reserved)
    assert not np.isin(found.codes, reserved).any()
    assert (found.int8_image()[0][changed_pairs(tensor, found).nonzero()[0]] == 0).any()


def test_codes_with_zero_points() -> None:
    """122 + 115 are 109 too many, which both share; -124 stays the last that int8 less 5 holds."""
    codes = np.array([[127, 120, -118, -119]], np.int8).view(np.uint8)
    tensor = QuantizedTensor(
        codes, resolve("int8"), PerAxis(0), np.ones(1, np.float32), np.array([5], np.uint8)
    )
    found = within_int16(tensor, np.array([[122.0, 115, -123, -124]], np.float32), np.arange(4))
    assert found is not None
    w8 = found.int8_image()[0].astype(int)[0]
    assert (w8[0] + w8[1], w8[2] + w8[3]) == (128, -128)
    assert w8[0] in (67, 68)
    assert w8[2] in (-63, -64)


def test_weights_with_a_merged_side_path() -> None:
    rng = np.random.default_rng(1)
    b, a = rng.standard_normal((SHAPE[0], 2)), rng.standard_normal((2, SHAPE[1]))
    main = of_format("int4", 16)
    scale = main.int8_image()[1].reshape(-1, 1)
    path = side_path(b * scale * 12, a, *main.int8_image(), largest=main.largest_level)
    tensor = replace(main, side=path)
    assert saturating_pairs(tensor).any()
    found = within_int16(tensor, tensor.dequantize(), ORDER)
    if found is not None:  # a path may hold more than codes beside it can take back
        assert not saturating_pairs(found).any()
        assert found.side is path


def test_codes_that_are_read_as_eighths() -> None:
    rows = weights()
    size, s1 = 16, 2.0**-6
    scales = np.abs(rows).reshape(len(rows), -1, size).max(axis=2) / np.float32(7 * s1)
    scales = scales.astype(np.float32).view(np.uint32) >> 16 << 16
    integers = np.clip(np.rint(rows / (np.repeat(scales.view(np.float32), size, axis=1) * s1)), -8, 7)
    exact = DualPrecisionTensor.of(integers, scales.view(np.float32), size, s1, "float8_e4m3fn_240")
    tensor = eighth_image(exact)
    assert saturating_pairs(tensor).any()
    found = within_int16(tensor, tensor.dequantize(), ORDER)
    assert found is not None
    assert type(found) is type(tensor)
    assert not pairs_saturate(found.int8_image()[0], ORDER)


def test_none_where_no_codes_fit() -> None:
    """A format without small levels, as a table may be learned: 100 and more beside 100 and more."""
    table = LearnedTable(bytes(range(100, 116)))
    tensor = QuantizedTensor(np.zeros((1, 2), np.uint8), table, PerAxis(0), np.ones(1, np.float32))
    assert within_int16(tensor, tensor.dequantize(), np.arange(2)) is None
