"""Vector instructions, copies and messages against numpy."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Space
from lpcompile.errors import ProgramError
from tests.backends.cim.build import BYTES, Builder, op, window, windows_of
from tests.backends.cim.running import interpret, run_all, simulate

RNG = np.random.default_rng(11)
RANGES = {
    "u8": (0, 255),
    "i8": (-128, 127),
    "i16": (-(1 << 15), (1 << 15) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
}
NUMPY: dict[str, Any] = {"u8": np.uint8, "i8": np.int8, "i16": np.int16, "i32": np.int32}
DTYPES = tuple(BYTES)
INIT = 1


def numbers(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Numbers of all sizes, extremes among them."""
    low, high = RANGES[dtype]
    values = RNG.integers(low, high + 1, shape) >> RNG.integers(0, 8 * BYTES[dtype], shape)
    values.flat[:3] = low, high, 0
    return values.astype(NUMPY[dtype])


@pytest.mark.parametrize("pair", [("u8", "i32"), ("i8", "i16"), ("u8", "u8"), ("i32", "i32")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_two_saturate(pair: tuple[str, str], dtype: str) -> None:
    functions = [np.add, np.subtract, np.multiply, np.maximum, np.minimum]
    b = Builder()
    values = [numbers(kind, (3, 7)) for kind in pair]
    zeros = [0 if kind == "i32" else zero for kind, zero in zip(pair, (3, -5), strict=True)]
    x, y = (b.again(b.const(v), zero=z) for v, z in zip(values, zeros, strict=True))
    for unit in range(len(functions)):
        d = b.desc((3, 7), dtype)
        b.run[0].append(op("VOP", d, x, y, unit=unit))
        b.fetch(f"y{unit}", d)
    found = run_all(b.program(), {})
    wide = [v.astype(np.int64) - z for v, z in zip(values, zeros, strict=True)]
    for unit, function in enumerate(functions):
        np.testing.assert_array_equal(found[f"y{unit}"], np.clip(function(*wide), *RANGES[dtype]))


def test_shifts() -> None:
    b = Builder()
    values, amounts = numbers("i32", (40,)), RNG.integers(0, 32, 40).astype(np.uint8)
    x, y = b.const(values), b.const(amounts)
    left, right = b.desc((40,), "i32"), b.desc((40,), "i16")
    b.run[0] += [op("VOP", left, x, y, unit=5), op("VOP", right, x, y, unit=6)]
    b.fetch("left", left)
    b.fetch("right", right)
    found = run_all(b.program(), {})
    wide = values.astype(np.int64)
    np.testing.assert_array_equal(found["left"], np.clip(wide << amounts, *RANGES["i32"]))
    np.testing.assert_array_equal(found["right"], np.clip(wide >> amounts, *RANGES["i16"]))
    b = Builder()
    x, y = b.const(numbers("i8", (4,))), b.const(np.array([0, 1, 32, 3], np.uint8))
    b.run[0].append(op("VOP", x, x, y, unit=5))
    with pytest.raises(ProgramError, match="a shift is not 0"):
        simulate(b.program(), {})


def test_operands_are_broadcast_by_stride_0() -> None:
    b = Builder()
    x, row = b.feed("x", (4, 5)), b.feed("row", (5,))
    spread = b.again(row, dims=((4, 0), (5, 1)))
    d = b.desc((4, 5), "i16")
    b.run[0].append(op("VOP", d, x, spread, unit=2))
    b.fetch("y", d)
    feeds = {"x": numbers("u8", (4, 5)), "row": numbers("u8", (5,))}
    expected = feeds["x"].astype(int) * feeds["row"]
    np.testing.assert_array_equal(run_all(b.program(), feeds)["y"], np.minimum(expected, 32767))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "b", "k", "zero", "low", "high"),
    [
        (
            RNG.integers(-32768, 32768, 5),
            RNG.integers(-(1 << 50), 1 << 50, 5),
            RNG.integers(0, 50, 5),
            7,
            -40,
            200,
        ),
        (RNG.integers(0, 32768, 5), RNG.integers(-(1 << 20), 1 << 20, 5), RNG.integers(8, 40, 5), 0, 0, 255),
        (12345, (1 << 62) + 12345, 62, -3, -(1 << 31), (1 << 31) - 1),
        (-32768, -(1 << 62), 0, 1 << 30, -(1 << 31), (1 << 31) - 1),
        (32767, 1 << 19, 20, 3, 0, 15),
    ],
)
def test_requantisation_is_exact(dtype: str, m: Any, b: Any, k: Any, zero: int, low: int, high: int) -> None:
    builder = Builder()
    values = numbers("i32", (2, 9, 5))
    x = builder.const(values)
    d = builder.desc((2, 9, 5), dtype)
    builder.run[0].append(op("VRQ", d, x, builder.requant(m, b, k, zero, low, high)))
    builder.fetch("y", d)
    m, b, k = (np.asarray(v).astype(object) for v in (m, b, k))
    expected = np.clip(((values.astype(object) * m + b) >> k) + zero, low, high)
    expected = np.clip(expected, *RANGES[dtype]).astype(np.int64)
    np.testing.assert_array_equal(run_all(builder.program(), {})["y"], expected)


@pytest.mark.parametrize(("kinds", "b", "k"), [(("u8", "u8"), 1 << 13, 14), (("i32", "u8"), 1 << 60, 61)])
def test_a_residual_add_rounds_once(kinds: tuple[str, str], b: int, k: int) -> None:
    builder = Builder()
    first, second = (numbers(kind, (6, 5)) for kind in kinds)
    x, y = builder.const(first), builder.const(second)
    entry = builder.requant((9000, -7000), b, k, 3, 0, 200)
    d = builder.again(builder.desc((6, 5)), requant=entry)
    builder.run[0].append(op("VADDQ", d, x, y))
    builder.fetch("y", d)
    total = first.astype(object) * 9000 + second.astype(object) * -7000 + b
    expected = np.clip((total >> k) + 3, 0, 200).astype(np.uint8)
    np.testing.assert_array_equal(run_all(builder.program(), {})["y"], expected)


def test_tables_fills_and_sums() -> None:
    b = Builder()
    table = RNG.permutation(256).astype(np.uint8)
    b.luts.append(table.tobytes())
    x = b.feed("x", (3, 6))
    looked, filled, sums = b.desc((3, 6)), b.desc((3, 6), "i32"), b.desc((3, 6), "i32")
    b.run[0] += [
        op("VLUT", looked, x, 0),
        op("FILL", filled, 65536 - 77),
        op("VCVT", sums, x),
        op("ACC", sums, filled),
    ]
    b.fetch("looked", looked)
    b.fetch("sums", sums)
    values = numbers("u8", (3, 6))
    found = run_all(b.program(), {"x": values})
    np.testing.assert_array_equal(found["looked"], table[values])
    np.testing.assert_array_equal(found["sums"], values.astype(int) - 77)


@pytest.mark.parametrize("dtype", ["u8", "i8", "i16"])
def test_reductions(dtype: str) -> None:
    b = Builder()
    values = numbers(dtype, (3, 4, 9))
    if dtype == "i16":
        values >>= 3
    x = b.const(values)
    for unit in range(3):
        d = b.desc((3, 4) if unit else (3, 4, 1), "i32")
        b.run[0].append(op("VRED", d, x, unit=unit))
        b.fetch(f"y{unit}", d)
    found = run_all(b.program(), {})
    wide = values.astype(np.int64)
    np.testing.assert_array_equal(found["y0"][..., 0], wide.sum(axis=-1))
    np.testing.assert_array_equal(found["y1"], wide.max(axis=-1))
    np.testing.assert_array_equal(found["y2"], (wide * wide).sum(axis=-1))


@pytest.mark.parametrize("dtype", ["u8", "i8", "i16"])
@pytest.mark.parametrize("unit", [0, 1])
def test_pools(dtype: str, unit: int) -> None:
    b = Builder()
    values = numbers(dtype, (7, 6, 3))
    slid = window((3, 2), (2, 2), (1, 0, 1, 1), pad_value=5)
    x = b.again(b.const(values), window=slid)
    counts = slid.out_counts((7, 6))
    d = b.desc((*counts, 3), dtype if unit == 0 else "i32")
    b.run[0].append(op("VPOOL", d, x, unit=unit))
    b.fetch("y", d)
    wide = values.astype(np.int64)
    low = RANGES[dtype][0]
    if unit == 0:
        expected = windows_of(wide, window((3, 2), (2, 2), (1, 0, 1, 1), pad_value=low)).max(axis=-2)
    else:
        expected = windows_of(wide, slid).sum(axis=-2)
    np.testing.assert_array_equal(run_all(b.program(), {})["y"], expected)


@pytest.mark.parametrize("dtype", ["u8", "i8", "i16"])
def test_depthwise_windows(dtype: str) -> None:
    b = Builder()
    values, weights = numbers(dtype, (6, 5, 3)), numbers("i8", (9, 3, 2))
    slid = window((3, 3), pads=(1, 1, 1, 1), pad_value=4)
    x, w = b.again(b.const(values), window=slid), b.const(weights)
    d = b.desc((6, 5, 6), "i32")
    b.run[0] += [op("VDW", d, x, w, flags=INIT), op("VDW", d, x, w)]
    b.fetch("y", d)
    expected = np.einsum("hwtc,tcj->hwcj", windows_of(values.astype(np.int64), slid), weights).reshape(
        6, 5, 6
    )
    np.testing.assert_array_equal(run_all(b.program(), {})["y"], 2 * expected)


@pytest.mark.parametrize("pair", [("u8", "i8"), ("i16", "i16"), ("i8", "i16")])
def test_dense_products(pair: tuple[str, str]) -> None:
    b = Builder()
    values, weights = numbers(pair[0], (2, 3, 6)) >> 1, numbers(pair[1], (6, 4)) >> 1
    x, w = b.const(values), b.const(weights)
    d = b.desc((2, 3, 4), "i32")
    b.run[0] += [op("VMM", d, x, w, flags=INIT)]
    b.fetch("y", d)
    np.testing.assert_array_equal(run_all(b.program(), {})["y"], values.astype(np.int64) @ weights)


def test_a_dense_product_of_windows() -> None:
    b = Builder()
    values, weights = numbers("u8", (5, 4, 2)), numbers("i8", (8, 3))
    slid = window((2, 2), (2, 1), pad_value=1)
    x, w = b.again(b.const(values), window=slid), b.const(weights)
    d = b.desc((2 * 3, 3), "i32")
    b.run[0] += [op("VMM", d, x, w, flags=INIT)]
    b.fetch("y", d)
    expected = windows_of(values, slid).reshape(6, 8).astype(np.int64) @ weights
    np.testing.assert_array_equal(run_all(b.program(), {})["y"], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_conversions_saturate(dtype: str) -> None:
    b = Builder()
    values = numbers("i32", (30,))
    x, d = b.const(values), b.desc((30,), dtype)
    b.run[0].append(op("VCVT", d, x))
    b.fetch("y", d)
    np.testing.assert_array_equal(
        run_all(b.program(), {})["y"], np.clip(values.astype(np.int64), *RANGES[dtype])
    )


def test_codes_are_packed_low_nibble_first() -> None:
    b = Builder()
    x = b.feed("x", (2, 6))
    packed, codes, signed = b.desc((2, 3)), b.desc((2, 6)), b.desc((2, 6), "i8")
    b.run[0] += [
        op("VCVT", packed, x, unit=1),
        op("VCVT", codes, packed, unit=2),
        op("VCVT", signed, packed, unit=2),
    ]
    b.fetch("packed", packed)
    b.fetch("codes", codes)
    b.fetch("signed", signed)
    values = numbers("u8", (2, 6))
    found = run_all(b.program(), {"x": values})
    codes4 = values & 15
    np.testing.assert_array_equal(found["packed"], codes4[:, ::2] | codes4[:, 1::2] << 4)
    np.testing.assert_array_equal(found["codes"], codes4)
    np.testing.assert_array_equal(found["signed"], (codes4.astype(int) ^ 8) - 8)


def test_a_transposition_is_two_descriptors() -> None:
    b = Builder()
    x = b.feed("x", (3, 4))
    turned = b.again(x, dims=((4, 1), (3, 4)))
    d = b.desc((4, 3))
    b.run[0].append(op("VTR", d, turned))
    b.fetch("y", d)
    values = numbers("u8", (3, 4))
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], values.T)


def test_an_instruction_reads_all_before_it_writes() -> None:
    b = Builder()
    x = b.feed("x", (8,))
    shifted = b.again(x, base=b.descriptors[x].base + 1, dims=((7, 1),))
    b.run[0].append(op("VTR", shifted, b.again(x, dims=((7, 1),))))
    b.fetch("y", x)
    values = numbers("u8", (8,))
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], [values[0], *values[:7]])


def test_cores_exchange_messages_and_shared_memory() -> None:
    b = Builder(cores=2)
    x = b.feed("x", (4, 6), "i32")
    through = b.desc((4, 6), "i32", Space.GB)
    there, back = b.desc((24,), "i32"), b.desc((4, 6), "i32")
    b.run[0] += [op("SEND", x, 1, 9), op("RECV", back, 1, 9), op("BAR")]
    b.run[1] += [
        op("RECV", there, 0, 9),
        op("BAR"),
        op("ACC", there, there),
        op("BAR"),
        op("SEND", there, 0, 9),
    ]
    b.run[0] += [op("ST", through, back), op("SIG", 3, 1, unit=2)]
    b.run[1] += [op("WAIT", 3, 1, unit=2), op("LD", b.again(there, dims=((4, 24), (6, 4))), through)]
    b.fetch("y", b.again(there, dims=((4, 24), (6, 4))), core=1)
    values = numbers("i32", (4, 6)) >> 1
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], 2 * values)


def test_sums_beyond_int32_are_faults() -> None:
    high = np.full((2, 2), 2**31 - 1, np.int32)
    for word in ("ACC", "VRED"):
        b = Builder()
        x = b.const(high)
        b.run[0].append(op("ACC", x, x) if word == "ACC" else op("VRED", b.desc((2,), "i32"), x))
        with pytest.raises(ProgramError, match="leaves the range of int32"):
            simulate(b.program(), {})
        with pytest.raises(ProgramError):
            interpret(b.program(), {})
