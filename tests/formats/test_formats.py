"""Laws that hold for every format: names, tables, nearest rounding, images."""

from fractions import Fraction

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from lpcompile.errors import FormatError
from lpcompile.formats.base import NumberFormat, format_names, resolve
from lpcompile.formats.nearest import Nearest, UniformNearest, nearest_of

LUT = "lut4:81a3bccdd9e4f0fa000b162230405a7f"
SHUFFLED_LUT = "lut4:7f81a3bc5acdd9e44030f0fa22160b00"
NAMES = [*format_names(), LUT, SHUFFLED_LUT]
FOUR_BITS = ["fixp4", "int4", "uint4", "posit4", "posit4es1", "nf4", "pot4", "float4_e2m1fn", LUT]


def levels_and_codes(fmt: NumberFormat) -> tuple[np.ndarray, np.ndarray]:
    """Distinct finite values of the table, each with its lowest code, in the order of the codes."""
    table = fmt.table()
    lowest: dict[float, int] = {}
    for code in range(len(table)):
        if np.isfinite(table[code]):
            lowest.setdefault(float(table[code]) + 0.0, code)
    return np.array(list(lowest)), np.array(list(lowest.values()))


def brute_force(fmt: NumberFormat, x: np.ndarray) -> np.ndarray:
    """Codes of the nearest values by comparing every distance, in float64; a tie goes to the even code."""
    levels, codes = levels_and_codes(fmt)
    inside = np.clip(x.astype(np.float64), -2 * fmt.max, 2 * fmt.max)  # else large x drown the distances
    distance = np.abs(inside[:, None] - levels)
    nearest = distance == distance.min(axis=1, keepdims=True)
    # Among the nearest: even codes first, then small magnitudes.
    rank = np.where(nearest, (codes & 1) * 1e6 + np.abs(levels), np.inf)
    if fmt.name.startswith(
        "lut4"
    ):  # codes in free order: where both are even or odd, only the magnitude counts
        two_even = (nearest & (codes & 1 == 0)).sum(axis=1) != 1
        rank[two_even] = np.where(nearest[two_even], np.abs(levels), np.inf)
    found: np.ndarray = codes[rank.argmin(axis=1)]
    return found


def samples(fmt: NumberFormat) -> np.ndarray:
    """Grid points, midpoints, their float32 neighbours, random values over the range and far outside."""
    grid = fmt.grid().astype(np.float32)
    middle = ((grid[1:].astype(np.float64) + grid[:-1]) / 2).astype(np.float32)
    points = np.concatenate([grid, middle])
    up, down = np.float32(np.inf), np.float32(-np.inf)
    rng = np.random.default_rng(0)
    spread = fmt.max * rng.choice([-1, 1], 500) * np.exp(rng.uniform(-8, 1, 500))
    near = rng.uniform(-1.2, 1.2, 500) * fmt.max
    extremes = [0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30, 3e38, -3e38]
    parts = [points, np.nextafter(points, up), np.nextafter(points, down), spread, near, extremes]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_name_round_trips(name: str) -> None:
    fmt = resolve(name)
    assert fmt.name == name
    assert resolve(fmt.name) == fmt
    assert hash(resolve(fmt.name)) == hash(fmt)
    assert isinstance(fmt, NumberFormat)


@pytest.mark.parametrize("name", NAMES)
def test_table_and_grid_agree(name: str) -> None:
    fmt = resolve(name)
    table, grid = fmt.table(), fmt.grid()
    assert table.shape == (2**fmt.bits,)
    assert np.array_equal(grid, np.unique(table[np.isfinite(table)]))
    assert np.abs(grid).max() == fmt.max
    assert np.array_equal(fmt.decode(np.arange(2**fmt.bits, dtype=np.uint8)), table, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_encode_is_nearest_with_ties_to_even(name: str, dtype: type) -> None:
    fmt = resolve(name)
    x = samples(fmt)
    assert np.array_equal(fmt.encode(x.astype(dtype)), brute_force(fmt, x))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_rounded_to_the_levels_of_their_codes(name: str) -> None:
    fmt = resolve(name)
    x = samples(fmt)
    found = nearest_of(fmt.table()).round_block(x)
    np.testing.assert_array_equal(found, fmt.table()[brute_force(fmt, x)].astype(np.float32) + 0)


@pytest.mark.parametrize("name", NAMES)
def test_evenly_spaced_codes_in_order_are_rounded_by_arithmetic(name: str) -> None:
    even = name.startswith(("int", "uint", "fixp"))
    assert isinstance(nearest_of(resolve(name).table()), UniformNearest) == even


@pytest.mark.parametrize("name", NAMES)
def test_float64_between_two_float32_is_rounded_as_float64(name: str) -> None:
    fmt = resolve(name)
    grid = fmt.grid()
    middle = (grid[1:] + grid[:-1]) / 2
    low, high = (
        fmt.decode(fmt.encode(np.nextafter(middle, -np.inf))),
        fmt.decode(fmt.encode(np.nextafter(middle, np.inf))),
    )
    inexact = (np.nextafter(middle, -np.inf) - grid[:-1] < grid[1:] - np.nextafter(middle, -np.inf)) & (
        middle != 0
    )
    assert np.array_equal(low[inexact], grid[:-1][inexact].astype(np.float32))
    assert np.array_equal(high[inexact], grid[1:][inexact].astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_encode_undoes_decode(name: str) -> None:
    fmt = resolve(name)
    levels, codes = levels_and_codes(fmt)
    assert np.array_equal(fmt.encode(fmt.decode(codes.astype(np.uint8))), codes)
    assert np.array_equal(fmt.encode(levels), codes)


@pytest.mark.sweep
@pytest.mark.parametrize("name", FOUR_BITS)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.floats(0.0078125, 64, width=32),
)
def test_scaled_encode_is_nearest_to_the_float32_quotient(
    name: str, values: list[float], scale: float
) -> None:
    fmt = resolve(name)
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        quotient = x / np.float32(scale)
    assert np.array_equal(fmt.encode_f32(x, scale), brute_force(fmt, quotient))


def test_scales_broadcast_and_blocks_join() -> None:
    rng = np.random.default_rng(0)
    for shape, scale_shape in [
        ((7, 70_001), (7, 1)),
        ((3000, 40), (3000, 1)),
        ((50, 30, 32), (50, 30, 1)),
        ((100_003,), ()),
    ]:
        x = rng.standard_normal(shape).astype(np.float32)
        scale = rng.uniform(0.1, 1, scale_shape).astype(np.float32)
        fmt = resolve("posit4")
        assert np.array_equal(fmt.encode_f32(x, scale), fmt.encode((x / scale).astype(np.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_infinity_saturates_and_nan_is_refused(name: str) -> None:
    fmt = resolve(name)
    for dtype in (np.float32, np.float64):
        ends = fmt.decode(fmt.encode(np.array([-np.inf, np.inf], dtype)))
        assert ends.tolist() == [np.float32(fmt.grid()[0]), np.float32(fmt.grid()[-1])]
        with pytest.raises(FormatError, match="NaN"):
            fmt.encode(np.array([0.0, np.nan], dtype))


@pytest.mark.parametrize("name", NAMES)
def test_the_image_is_the_table(name: str) -> None:
    fmt = resolve(name)
    image, table = fmt.image(), fmt.table()
    if image is None:
        assert not fmt.image_exact
        assert fmt.image_scale == 1
        return
    assert image.dtype == np.int8
    values = np.where(np.isnan(table), 0, table)
    for code in range(2**fmt.bits):  # every code, in rational arithmetic
        scale = Fraction(1, 127) if name == "nf4" else Fraction(fmt.image_scale)
        exact = Fraction(int(image[code])) * scale
        error = abs(exact - Fraction(float(values[code])))
        assert error == 0 if fmt.image_exact else error <= Fraction(1, 254)


def test_images_of_the_contract() -> None:
    def magnitudes(name: str) -> list[int]:
        image = resolve(name).image()
        assert image is not None
        return sorted({abs(int(v)) for v in image})

    assert magnitudes("posit4") == [0, 1, 2, 3, 4, 6, 8, 16]
    assert magnitudes("pot4") == [0, 1, 2, 4, 8, 16, 32, 64]
    assert magnitudes("float4_e2m1fn") == [0, 1, 2, 3, 4, 6, 8, 12]
    assert magnitudes("fixp4") == list(range(9))
    scales = {n: resolve(n).image_scale for n in ("int4", "fixp4", "posit4", "pot4", "float4_e2m1fn", "nf4")}
    assert scales == {
        "int4": 1,
        "fixp4": 1 / 8,
        "posit4": 1 / 4,
        "pot4": 1 / 64,
        "float4_e2m1fn": 1 / 2,
        "nf4": 1 / 127,
    }
    for name in ("posit4es1", "posit4es2", "posit8", "uint8", "float8_e4m3fn", "float8_e5m2", "ufloat8_e4m4"):
        assert resolve(name).image() is None, name


def test_nf4_image_is_127_times_the_published_table() -> None:
    fmt = resolve("nf4")
    image = fmt.image()
    assert image is not None
    assert image.tolist() == [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127]
    assert not fmt.image_exact


MINIFLOATS = {
    "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


@pytest.mark.parametrize("name", MINIFLOATS)
def test_minifloats_agree_with_ml_dtypes(name: str) -> None:
    fmt, dtype = resolve(name), MINIFLOATS[name]
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    theirs = codes.view(dtype).astype(np.float64)
    assert np.array_equal(fmt.table(), np.where(np.isfinite(theirs), theirs, np.nan), equal_nan=True)
    rng = np.random.default_rng(0)
    x = np.concatenate([samples(fmt), (rng.standard_normal(200_000) * np.exp(rng.uniform(-9, 5, 200_000)))])
    x = np.clip(x, -fmt.max, fmt.max).astype(np.float32)  # theirs does not saturate
    assert np.array_equal(fmt.decode(fmt.encode(x)), x.astype(dtype).astype(np.float32))


def test_scale_format_is_positive_and_exact() -> None:
    fmt = resolve("ufloat8_e4m4")
    code = np.arange(256)
    assert np.array_equal(fmt.table(), (16 + (code & 15)) * 2.0 ** (code >> 4))
    assert fmt.max == 31 * 2**15 == 63488 * fmt.grid()[0]
    ratios = fmt.grid()[1:] / fmt.grid()[:-1]
    assert ratios.min() == 32 / 31
    assert ratios.max() == 17 / 16


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("int44", "int4"),
        ("nf5", "nf4"),
        ("posit4sc4", "labels of the scale"),
        ("posit4sc8", "labels of the scale"),
        ("float8_e4m3", "float8_e4m3fn"),
        ("lut4:12", "32 hexadecimal digits"),
        ("uint4_narrow", "int4_narrow"),
        ("", "lpcompile formats"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(FormatError) as caught:
        resolve(name)
    assert repr(name) in caught.value.message
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_spellings_that_are_not_canonical() -> None:
    assert resolve("posit4es0").name == "posit4"
    assert resolve(LUT.upper().replace("LUT4", "lut4")).name == LUT


def test_narrow_range_never_gives_the_lowest_code() -> None:
    fmt = resolve("int8_narrow")
    assert fmt.decode(fmt.encode(np.array([-200.0, 200.0]))).tolist() == [-127, 127]
    assert np.isnan(fmt.table()[0x80])
    assert resolve("int8").decode(resolve("int8").encode(np.array([-200.0]))).tolist() == [-128]


def test_tables_are_shared_and_read_only() -> None:
    fmt = resolve("nf4")
    with pytest.raises(ValueError, match="read-only"):
        fmt.table()[0] = 0


@pytest.mark.parametrize(
    ("levels", "top"), [((-1, 0, 0.5, 0.875), 0.875), ((-2, -1, 0, 1), 1), ((-3, -1, -0.5, 0), 3)]
)
def test_the_top_is_the_largest_level_or_the_farthest_without_positive_ones(
    levels: tuple[float, ...], top: float
) -> None:
    assert Nearest(np.array(levels)).top == top


@pytest.mark.parametrize("kind", ["int", "uint", "fixp"])
def test_every_width_that_is_read_is_listed(kind: str) -> None:
    def read(name: str) -> bool:
        try:
            return resolve(name).name == name
        except FormatError:
            return False

    names = {f"{kind}{bits}" for bits in range(12)}
    assert names & set(format_names()) == {name for name in names if read(name)}
