"""Side paths beside the inputs of one product: exact for every zero point, bits shared by two roundings."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.quant.concat_path import (
    HiddenSample,
    concat_numbers,
    concat_pairs_saturate,
    concat_path,
    hidden_codes,
)
from lpcompile.quant.side_path import SidePath

SCALE = np.linspace(0.001, 0.004, 30).astype(np.float32)


def sample_of(inputs: int, seed: int = 0, positions: int = 400) -> HiddenSample:
    rng = np.random.default_rng(seed)
    codes = np.clip(np.rint(rng.normal(0, 40, (positions, inputs))), -128, 127)
    return HiddenSample(codes.astype(np.int16), 0.02)


def factors(size: float, rank: int = 4, inputs: int = 50, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """B of that size beside the main path's scales."""
    rng = np.random.default_rng(seed)
    return size * SCALE[:, None] * rng.normal(size=(len(SCALE), rank)), rng.normal(size=(rank, inputs))


def path_of(size: float, columns: int = 1) -> SidePath:
    found = concat_path(*factors(size), SCALE, sample_of(50), columns=columns)
    assert found is not None
    return found


@pytest.mark.parametrize("zero", [0, 3, 128, 255])
def test_what_the_product_takes_off_is_made_good_for_any_zero_point(zero: int) -> None:
    """sum b (q - zero) over all columns is sum b (q - 128) over those of the path, by Python's own integers."""
    path = path_of(1.0)
    numbers = concat_numbers(path)
    x = np.random.default_rng(2).integers(-zero, 256 - zero, (40, 50))
    codes = hidden_codes(numbers, x).astype(np.int64)
    added = (codes - zero) @ numbers.b.T.astype(np.int64)
    m = path.multipliers.astype(np.float32) * path.unit
    for i in range(len(x)):
        sums = [sum(int(a) * int(v) for a, v in zip(row, x[i], strict=True)) for row in path.a]
        q = [min(255, max(0, round(float(np.float32(s) * f)) + 128)) for s, f in zip(sums, m, strict=True)]
        wanted = [sum(int(b) * (v - 128) for b, v in zip(row, q, strict=True)) for row in path.b]
        assert added[i].tolist() == wanted


@pytest.mark.parametrize("size", [0.02, 0.2, 1.0])
def test_both_roundings_lose_alike(size: float) -> None:
    """And little beside the other's grid: their sum is near the least that any share of the bits would give."""
    b, a = factors(size)
    path, sample = path_of(size), sample_of(50)
    numbers = concat_numbers(path)
    hidden = hidden_codes(numbers, sample.codes)[:, : path.rank] - 128
    assert np.abs(hidden).max() <= 127
    wanted = sample.codes @ ((b / SCALE[:, None]) @ a).T
    error = np.square(hidden @ path.b.T.astype(float) - wanted).mean()
    powers = [np.square(v).mean() for v in (hidden, path.b.astype(float))]
    assert error == pytest.approx(path.rank / 12 * sum(powers), rel=0.25)
    if np.abs(hidden).max() < 120 and np.abs(path.b).max() < 120:
        assert 0.6 < powers[0] / powers[1] < 1.6


def test_a_wide_rank_is_held_in_part_or_by_more_columns() -> None:
    b, a = factors(50.0)
    wanted = (b / SCALE[:, None]) @ a
    part, whole = path_of(50.0), path_of(50.0, columns=32)
    assert part.rank == 4 < whole.rank
    assert np.abs(part.b).max() == 127
    share = [float((p.product() * wanted).sum() / np.square(wanted).sum()) for p in (part, whole)]
    assert share[0] < 0.9
    assert share[1] == pytest.approx(1, abs=0.01)
    starts = np.flatnonzero(np.r_[True, (whole.a[1:] != whole.a[:-1]).any(axis=1)])
    assert len(starts) == 4, "columns of a rank are alike"
    runs = np.split(whole.b.astype(int), starts[1:], axis=1)
    assert max(int(np.ptp(run, axis=1).max()) for run in runs) <= 1


def test_nothing_is_left_of_what_is_far_below_one_step() -> None:
    sample = sample_of(50)
    b, a = factors(1e-6)
    assert concat_path(b, a, SCALE, sample) is None
    assert concat_path(0 * b, a, SCALE, sample) is None
    assert concat_path(b, 0 * a, SCALE, sample) is None
    dead = HiddenSample(np.zeros((3, 50), np.int16), 0.02)
    assert concat_path(*factors(1.0), SCALE, dead) is None
    with pytest.raises(FormatError, match="NaN or infinity"):
        concat_path(b * np.nan, a, SCALE, sample)


def test_the_product_is_exact_and_tells_forms_apart() -> None:
    path = path_of(1.0)
    left = path.b.astype(object) * [int(n) for n in path.multipliers]
    exact = left @ path.a.astype(object)
    wanted = [[np.float32(float(v) * float(path.unit)) for v in row] for row in exact]
    np.testing.assert_array_equal(path.product(), np.array(wanted, np.float32))
    plain = SidePath(path.b, path.a, path.multipliers, path.unit, path.steps, path.step_unit, apart=True)
    assert plain.digest() != path.digest()


@pytest.mark.parametrize(
    ("w8", "b", "largest", "saturates"),
    [
        ([64, 64, 0, 0], [64, -64], 255, False),
        ([64, 65, 0, 0], [1, -1], 255, True),
        ([64, 65, 127, 127], [1, -1], 15, False),  # inputs of 4 bits
        ([0, 0, 0, 0], [64, 65, -64, -65], 255, True),
        ([0, 0, 64], [64, 65, -65, -64], 255, False),  # neighbours are the last input and the first rank
        ([0, 0, 65], [64, 0, 0, -64], 255, True),
        ([0, 0, 65], [64, 0, 0, -64], 15, False),
    ],
)
def test_neighbours_in_the_joined_product(w8: list[int], b: list[int], largest: int, saturates: bool) -> None:
    """Numbers of the path have 8 bits whatever the inputs have; those of b sum up to 0, so that nothing is added."""
    ones = np.ones(1, np.uint8), np.ones((), np.float32)
    rank = len(b)
    path = SidePath(
        np.array([b], np.int8),
        np.zeros((rank, len(w8)), np.int8),
        np.ones(rank, np.uint8),
        np.ones((), np.float32),
        *ones,
        apart=True,
        concat=True,
    )
    main = np.array([w8], np.int8)
    assert concat_pairs_saturate(path, main, largest) == saturates
    steep = replace(path, a=np.full((rank, len(w8)), 65, np.int8))
    assert concat_pairs_saturate(steep, main, 255)
