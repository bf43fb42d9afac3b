"""MVM and its relatives against numpy."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Window
from lpcompile.backends.cim.simulator.activity import busy_planes, ones_per_row
from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.matrix import prepare
from lpcompile.backends.cim.simulator.observer import Executed
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.backends.cim.simulator.weights import read_group
from lpcompile.errors import ProgramError
from tests.backends.cim.build import TWOS4, TWOS8, Builder, capacities, op, window, windows_of
from tests.backends.cim.running import interpret, run_all, simulate

RNG = np.random.default_rng(7)
POSIT4 = (1, 2, 4, 8, 16, -32)
INIT, SKIPZ = 1, 2


def codes(shape: tuple[int, ...], dtype: Any = np.uint8, bits: int = 8) -> NDArray[Any]:
    low = 0 if dtype == np.uint8 else -(1 << (bits - 1))
    return RNG.integers(low, low + (1 << bits), shape).astype(dtype)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("shape", "slid", "dtype", "bits"),
    [
        ((7, 6, 5), window((3, 3), (1, 2), (1, 0, 1, 2), pad_value=9), "u8", 8),
        ((7, 6, 5), window((3, 2), (2, 1), dilations=(2, 1), pad_value=5), "u8", 4),
        ((2, 7, 5, 8), window((3, 3), pads=(1, 1, 1, 1), pad_value=-7), "i8", 8),
        ((9, 12), window((3,), (2,), (1, 1)), "u8", 8),
        ((3, 4, 4, 3, 2), window((2, 2, 2), pads=(0, 0, 1, 0, 1, 0), pad_value=255), "u8", 8),
        ((6, 40), None, "u8", 8),
        ((2, 3, 40), None, "i8", 8),
        ((40,), None, "u8", 3),
    ],
)
@pytest.mark.parametrize(
    ("coefficients", "low", "high"), [(TWOS4, -8, 8), (TWOS8, -128, 128), (POSIT4, -32, 32)]
)
def test_mvm_is_a_product(
    shape: tuple[int, ...],
    slid: Window | None,
    dtype: str,
    bits: int,
    coefficients: tuple[int, ...],
    low: int,
    high: int,
) -> None:
    b = Builder()
    local = b.feed("x", shape, "u8")
    x = b.again(local, window=slid, bits=bits, dtype=dtype)
    values = codes(shape)
    seen = values.view(np.int8) if dtype == "i8" else values & ((1 << bits) - 1)
    if slid is not None and dtype == "u8":
        slid = replace(slid, pad_value=slid.pad_value & ((1 << bits) - 1))
    lead = {0: 0, 1: len(shape) - 1 - len(slid.kernel)}[1] if slid else 0
    rows_of = (
        np.stack([windows_of(v, slid) for v in seen])
        if slid and lead
        else windows_of(seen, slid)
        if slid
        else seen
    )
    positions = rows_of.shape[:-2] if slid else rows_of.shape[:-1]
    rows = rows_of.reshape(*positions, -1).astype(np.int64)
    weights = RNG.integers(low, high, (rows.shape[-1], 6))
    acc = b.desc((*positions, 6), "i32")
    b.run[0] += [op("MVM", b.group(weights, coefficients, 19), x, acc, flags=INIT)]
    b.fetch("y", acc)
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], rows @ weights)


@pytest.mark.parametrize("channels", [3, 9])
def test_groups_take_parts_of_the_rows(channels: int) -> None:
    b = Builder()
    slid = window((3, 3), pads=(1, 1, 1, 1), pad_value=2)
    x = b.again(b.feed("x", (5, 5, channels)), window=slid)
    values = codes((5, 5, channels))
    rows = windows_of(values, slid).reshape(25, -1).astype(np.int64)
    weights = RNG.integers(-8, 8, (9 * channels, 4))
    acc = b.desc((25, 4), "i32")
    cuts = [0, 7, 7 + channels, 9 * channels]
    for i, (begin, end) in enumerate(pairwise(cuts)):
        group = b.group(weights[begin:end], row0=begin, block_rows=10)
        b.run[0].append(op("MVM", group, x, acc, flags=INIT if i == 0 else 0))
    b.fetch("y", acc)
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], rows @ weights)


def test_multipliers_scale_the_sums_of_blocks() -> None:
    b = Builder()
    x = b.feed("x", (4, 50))
    weights = RNG.integers(-8, 8, (50, 3))
    multipliers = RNG.integers(1, 16, (4, 3))
    acc = b.desc((4, 3), "i32")
    b.run[0] += [op("MVM", b.group(weights, TWOS4, 15, multipliers=multipliers), x, acc, flags=INIT)]
    b.fetch("y", acc)
    values = codes((4, 50))
    scaled = weights * np.repeat(multipliers, 15, axis=0)[:50]
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], values.astype(np.int64) @ scaled)


def test_planes_one_by_one_add_up_to_the_whole() -> None:
    for dtype, top in (("u8", 128), ("i8", -128)):
        b = Builder()
        x = b.again(b.feed("x", (3, 20)), dtype=dtype)
        group = b.group(RNG.integers(-8, 8, (20, 4)))
        whole, one = b.desc((3, 4), "i32"), b.desc((8, 3, 4), "i32")
        b.run[0] += [op("MVM", group, x, whole, flags=INIT)]
        size = 3 * 4 * 4
        for i in range(8):
            plane = b.again(one, base=b.descriptors[one].base + i * size, dims=b.descriptors[whole].dims)
            b.run[0] += [op("MVMP", group, x, plane, unit=i, flags=INIT)]
        b.fetch("whole", whole)
        b.fetch("one", one)
        found = run_all(b.program(), {"x": codes((3, 20))})
        coefficients = np.array([1, 2, 4, 8, 16, 32, 64, top])
        np.testing.assert_array_equal(np.tensordot(coefficients, found["one"], 1), found["whole"])


def test_init_counts_from_the_innermost_index_of_repeat() -> None:
    b = Builder()
    x = b.feed("x", (2, 3, 8))
    size = 8
    strip = b.again(x, dims=((1, size), (8, 1)), levels=(size, 3 * size))
    weights = RNG.integers(-8, 8, (3, 8, 5))
    first = b.group(weights[0])
    b.groups[first] = replace(b.groups[first], step=(1,))
    for w in weights[1:]:
        b.group(w)
    acc = b.desc((2, 5), "i32")
    row = b.again(acc, dims=((1, 20), (5, 4)), levels=(0, 20))
    b.run[0] += [op("REPEAT", 2, 2), op("REPEAT", 3, 1), op("MVM", first, strip, row, flags=INIT)]
    b.fetch("y", acc)
    values = codes((2, 3, 8))
    expected = np.einsum("ikr,kro->io", values.astype(np.int64), weights)
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], expected)


def test_sums_beyond_float32_stay_exact() -> None:
    weights = np.full((3000, 2), 127)
    weights[:, 1] = np.where(np.arange(3000) % 2, 127, -128)
    matrix = prepare(weights, 0, 255)
    assert len(matrix.pieces) > 5
    b = Builder()
    x = b.feed("x", (2, 3000))
    acc = b.desc((2, 2), "i32")
    b.run[0] += [op("MVM", b.group(weights, TWOS8), x, acc, flags=INIT)]
    b.fetch("y", acc)
    values = np.full((2, 3000), 255, np.uint8)
    values[1] = codes((3000,))
    for planes in (False, True):
        found = simulate(b.program(), {"x": values}, planes=planes)["y"]
        np.testing.assert_array_equal(found, values.astype(np.int64) @ weights)


@pytest.mark.parametrize("transfer", ["clip", "scale"])
@pytest.mark.parametrize("complement", [False, True])
def test_a_lossy_converter_is_modelled_block_by_block(transfer: str, complement: bool) -> None:
    machine = capacities(adc_bits=3, transfer=transfer)
    b = Builder()
    x = b.feed("x", (6, 45))
    weights = RNG.integers(-8, 8, (45, 5))
    group = b.group(weights, TWOS4, 20, lossless=False, complement=complement)
    acc = b.desc((6, 5), "i32")
    b.run[0] += [op("MVM", group, x, acc, flags=INIT)]
    b.fetch("y", acc)
    values = codes((6, 45)) | np.uint8(15)
    found = run_all(b.program(), {"x": values}, machine)["y"]
    assert (found != values.astype(np.int64) @ weights).any()
    result = Simulator(b.program(), machine).run({"x": values})
    assert result.counters.changed_conversions > 0
    exact = Simulator(b.program(), replace(machine, adc_bits=None)).run({"x": values})
    assert exact.counters.changed_conversions == 0
    np.testing.assert_array_equal(exact.outputs["y"], values.astype(np.int64) @ weights)


def test_npp_vector_3_is_minus_85() -> None:
    b = Builder()
    x = b.again(b.feed("x", (1, 4)), dtype="i8")
    acc = b.desc((1, 1), "i32")
    b.run[0] += [op("MVM", b.group(np.array([[-1], [5], [-8], [2]])), x, acc, flags=INIT)]
    b.fetch("y", acc)
    values = np.array([[3, -2, 7, -8]], np.int8).view(np.uint8)
    assert run_all(b.program(), {"x": values})["y"].tolist() == [[-85]]


def test_npp_vector_3_counts() -> None:
    counts = [[1, 1, 1, 2], [2, 1, 2, 2], [1, 0, 1, 1], [1, 1, 1, 0]]
    for j in range(4):
        b = Builder()
        x = b.again(b.feed("x", (1, 4)), bits=4)
        acc = b.desc((4, 1), "i32")
        bit = (np.array([[-1], [5], [-8], [2]]) >> j) & 1
        group = b.group(bit, (1,))
        for i in range(4):
            row = b.again(acc, base=b.descriptors[acc].base + 4 * i, dims=((1, 4), (1, 4)))
            b.run[0] += [op("MVMP", group, x, row, unit=i, flags=INIT)]
        b.fetch("y", acc)
        values = (np.array([[3, -2, 7, -8]]) & 15).astype(np.uint8)
        assert run_all(b.program(), {"x": values})["y"].ravel().tolist() == [row[j] for row in counts]


def test_npp_vector_4_is_the_scaled_converter() -> None:
    inner = "0,0,2.286,2.286,4.571,4.571,6.857,6.857,9.143,9.143,9.143,11.429,11.429,13.714,13.714,16,16"
    expected = np.rint([float(v) for v in inner.split(",")]).astype(int)
    assert Converter(capacities(adc_bits=3, transfer="scale")).table(16).tolist() == expected.tolist()
    assert Converter(capacities(adc_bits=5, transfer="scale")).table(16).tolist() == list(range(17))
    assert Converter(capacities(adc_bits=3, transfer="clip")).table(16).tolist() == [*range(8), *[7] * 9]


def test_a_column_passes_up_to_twice_the_range_with_its_complement() -> None:
    b = Builder()
    x = b.feed("x", (1, 127))
    acc = b.desc((1, 2), "i32")
    weights = np.stack([np.full(127, -1), np.arange(127) % 16 - 8], axis=1)
    b.run[0] += [op("MVM", b.group(weights, TWOS4, 127), x, acc, flags=INIT)]
    b.fetch("y", acc)
    values = codes((1, 127))
    np.testing.assert_array_equal(run_all(b.program(), {"x": values})["y"], values.astype(np.int64) @ weights)


def test_a_false_claim_of_lossless_is_refused() -> None:
    b = Builder()
    b.feed("x", (1, 127))
    b.group(np.full((127, 1), -1), TWOS4, 127, complement=False)
    with pytest.raises(ProgramError, match="marked lossless, but a column exceeds the converter"):
        simulate(b.program(), {"x": codes((1, 127))})


def test_a_group_must_be_in_the_macros() -> None:
    b = Builder()
    x = b.feed("x", (1, 8))
    acc = b.desc((1, 1), "i32")
    group = b.group(np.ones((8, 1)), boot=False)
    b.run[0] += [op("MVM", group, x, acc, flags=INIT)]
    with pytest.raises(ProgramError, match="is not in the macros"):
        simulate(b.program(), {"x": codes((1, 8))})
    other = b.group(np.ones((8, 1)), boot=False)
    b.groups[other] = replace(b.groups[other], first_macro=b.groups[group].first_macro)
    b.boot[0] = [op("WPROG", group, 0), op("WPROG", other, 0)]
    with pytest.raises(ProgramError, match="is not in the macros"):
        simulate(b.program(), {"x": codes((1, 8))})
    b.boot[0].reverse()
    b.run[0].append(op("WPAGE", group, 0))
    simulate(b.program(), {"x": codes((1, 8))})


@pytest.mark.parametrize(("start", "fits"), [(2**31 - 1 - 8 * 7 * 255, True), (2**31 - 8 * 7 * 255, False)])
def test_an_accumulator_beyond_int32_is_a_fault(start: int, fits: bool) -> None:
    b = Builder()
    x = b.feed("x", (1, 8))
    acc = b.feed("acc", (1, 1), "i32")
    b.run[0] += [op("MVM", b.group(np.full((8, 1), 7)), x, acc)]
    b.fetch("y", acc)
    feeds: dict[str, NDArray[Any]] = {
        "x": np.full((1, 8), 255, np.uint8),
        "acc": np.full((1, 1), start, np.int32),
    }
    if fits:
        assert run_all(b.program(), feeds)["y"] == 2**31 - 1
        return
    for planes in (False, True):
        with pytest.raises(ProgramError, match="leaves the range of int32"):
            simulate(b.program(), feeds, planes=planes)
    with pytest.raises(ProgramError):
        interpret(b.program(), feeds)


def test_planes_of_weights_are_read_back() -> None:
    for coefficients, low, high in ((TWOS8, -128, 128), (POSIT4, -32, 32), ((64, 256, -512, 1), 0, 2)):
        b = Builder()
        weights = RNG.integers(low, high, (70, 9))
        group = b.group(weights, coefficients, 31)
        np.testing.assert_array_equal(read_group(b.program(), b.groups[group]).integers(), weights)


def test_ones_are_counted_by_row_and_plane() -> None:
    x = codes((600, 13))
    expected = ((x[..., None] >> np.arange(8)) & 1).sum(axis=0)
    np.testing.assert_array_equal(ones_per_row(x, list(range(8))), expected)
    np.testing.assert_array_equal(ones_per_row(x, [3, 5]), expected[:, [3, 5]])
    sparse = x & codes((600, 13)) & codes((600, 13)) & np.uint8(9)
    blocks = [slice(0, 6), slice(6, 13)]
    busy = sum(((sparse[:, b, None] >> np.arange(4)) & 1).any(axis=1).sum() for b in blocks)
    assert busy_planes(sparse, [0, 1, 2, 3], blocks) == busy


class Watcher:
    wants_ones = True

    def __init__(self) -> None:
        self.events: list[Executed] = []
        self.began: list[tuple[int | None, int]] = []

    def begin(self, stage: int | None, sample: int) -> None:
        self.began.append((stage, sample))

    def executed(self, event: Executed) -> None:
        self.events.append(event)


def test_an_observer_sees_what_arrays_do() -> None:
    b = Builder()
    b.nodes = ["conv"]
    x = b.again(b.feed("x", (4, 20)), bits=4)
    acc = b.desc((4, 3), "i32")
    group = b.group(RNG.integers(-8, 8, (20, 3)), block_rows=15)
    b.run[0] += [op("MARK", 0), op("MVM", group, x, acc, flags=INIT | SKIPZ)]
    values = np.zeros((4, 20), np.uint8)
    values[1, 3] = 0b10000101
    watcher = Watcher()
    result = Simulator(b.program(), capacities(), observer=watcher, trace=True).run({"x": values})
    assert watcher.began == [(None, -1), (0, 0)]
    (mvm,) = [e for e in watcher.events if e.instruction.mnemonic == "MVM"]
    assert (mvm.node, mvm.work.group, mvm.work.positions, mvm.work.planes) == ("conv", group, 4, 4)
    assert mvm.work.plane_steps == 2
    assert mvm.work.macs == result.counters.macs == 4 * 20 * 3
    assert mvm.on is not None
    assert mvm.on.shape == (20, 4)
    assert np.argwhere(mvm.on).tolist() == [[3, 0], [3, 2]]
    assert [e.end for e in result.runs[-1].trace][-1] == result.cycles
