"""Bounds of values before any data, against what the simulator gives of all corners: no less, and no more."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DTYPE_RANGES, DeviceStage
from lpcompile.backends.cim.simulator.capacities import Limits
from lpcompile.backends.cim.simulator.operands import Operands
from lpcompile.backends.cim.simulator.ordering import order_of
from lpcompile.backends.cim.simulator.streams import unroll
from lpcompile.backends.cim.stored_weights import GroupBounds
from lpcompile.backends.cim.sum_bounds import SumBounds
from tests.backends.cim.build import Builder, capacities, op, window
from tests.backends.cim.running import simulate

INIT = 1
SIGNS = [(-7, 11), (3, 9), (-12, -4)]


def bounds(b: Builder, number: int) -> tuple[int, int]:
    """Of the elements behind a descriptor of core 0, at the end of a program that feeds nothing."""
    program, machine = b.program(), capacities()
    operands = Operands(program, machine, Limits())
    reports: list[str] = []
    sums = SumBounds(
        program, machine, operands, GroupBounds(program, machine), lambda o, m: reports.append(f"{o}: {m}")
    )
    for stage in (None, *(s.index for s in program.stages if isinstance(s, DeviceStage))):
        schedule = unroll(program, stage, Limits())
        for lane, position in order_of(schedule).sequence:
            sums.follow(schedule.lanes[lane][position])
    assert not reports
    descriptor = program.descriptors[number]
    found = sums.memory.read(operands.checked(descriptor, descriptor.base, writes=False), 0)
    return found.low, found.high


def reached(b: Builder, number: int) -> tuple[int, int]:
    """Least and largest of what the simulator leaves there."""
    b.fetch("y", number)
    found = simulate(b.program(), {})["y"]
    return int(found.min()), int(found.max())


def corners(*ranges: tuple[int, int], dtype: Any = np.int16) -> list[NDArray[Any]]:
    """Arrays that together hold every combination of the ends of ranges."""
    grid = np.meshgrid(*ranges, indexing="ij")
    return [g.reshape(-1).astype(dtype) for g in grid]


@pytest.mark.parametrize("unit", range(5))
@pytest.mark.parametrize("first", SIGNS)
@pytest.mark.parametrize("second", SIGNS)
@pytest.mark.parametrize("dtype", ["u8", "i8", "i16"])
def test_functions_of_two(unit: int, first: tuple[int, int], second: tuple[int, int], dtype: str) -> None:
    b = Builder()
    x, y = (b.again(b.const(c), zero=z) for c, z in zip(corners(first, second), (2, -3), strict=True))
    d = b.desc((4,), dtype)
    b.run[0] += [op("VOP", d, x, y, unit=unit), op("BAR")]
    assert bounds(b, d) == reached(b, d)


def test_shifts_may_give_anything() -> None:
    b = Builder()
    x, y = b.const(np.array([1, 2], np.int16)), b.const(np.array([0, 1], np.uint8))
    d = b.desc((2,), "i16")
    b.run[0] += [op("VOP", d, x, y, unit=5), op("BAR")]
    assert bounds(b, d) == DTYPE_RANGES["i16"]


@pytest.mark.parametrize("first", SIGNS)
@pytest.mark.parametrize("second", SIGNS)
def test_sums_onto_what_is_there(first: tuple[int, int], second: tuple[int, int]) -> None:
    b = Builder()
    x, y = (b.const(c) for c in corners(first, second, dtype=np.int32))
    b.run[0] += [op("ACC", x, y), op("BAR")]
    assert bounds(b, x) == reached(b, x)


@pytest.mark.parametrize("signs", SIGNS)
def test_products_of_numbers_that_are_not_known(signs: tuple[int, int]) -> None:
    """Weights that another instruction wrote: every product of the taps at its own worst."""
    b = Builder()
    x = b.const(np.array([[v] * 3 for v in SIGNS[0]], np.int16))
    known = b.const(np.array([signs] * 3, np.int16))
    w = b.desc((3, 2), "i16")
    d = b.desc((2, 2), "i32")
    b.run[0] += [op("VTR", w, known), op("BAR"), op("VMM", d, x, w, flags=INIT), op("BAR")]
    assert bounds(b, d) == reached(b, d)
    b = Builder()
    x, w = b.const(np.array([[v] * 3 for v in SIGNS[0]], np.int16)), b.const(np.array([signs] * 3, np.int16))
    d = b.desc((2, 2), "i32")
    b.run[0] += [op("VMM", d, x, w, flags=INIT), op("BAR"), op("VMM", d, x, w), op("BAR")]
    assert bounds(b, d) == reached(b, d)


@pytest.mark.parametrize("unit", range(3))
@pytest.mark.parametrize("signs", SIGNS)
def test_reductions(unit: int, signs: tuple[int, int]) -> None:
    b = Builder()
    x = b.const(np.array([[v] * 5 for v in signs], np.int16))
    d = b.desc((2,) if unit else (2, 1), "i32")
    b.run[0] += [op("VRED", d, x, unit=unit), op("BAR")]
    low, high = bounds(b, d)
    least, most = reached(b, d)
    assert (low, high) == (
        (0, most) if unit == 2 else (least, most)
    )  # of squares that reach 0, for all it knows


@pytest.mark.parametrize("pad", [-20, 0, 30])
@pytest.mark.parametrize("signs", SIGNS)
def test_pools(signs: tuple[int, int], pad: int) -> None:
    """A sum counts the value of its pads; a maximum sees them only where a window holds nothing else."""
    values = np.array([[[v]] * 3 for v in signs], np.int16)
    for unit, slid, padded in (
        (0, window((1, 2)), False),
        (0, window((1, 2), pads=(0, 1, 0, 0), pad_value=pad), False),
        (1, window((1, 2)), False),
        (1, window((1, 2), pads=(0, 1, 0, 0), pad_value=pad), True),
    ):
        b = Builder()
        x = b.again(b.const(values), window=slid)
        d = b.desc((*slid.out_counts((2, 3)), 1), "i16" if unit == 0 else "i32")
        b.run[0] += [op("VPOOL", d, x, unit=unit), op("BAR")]
        low, high = signs
        if padded:
            low, high = min(low, pad), max(high, pad)
        taps = 2 if unit else 1
        assert bounds(b, d) == (taps * low, taps * high)
        least, most = reached(b, d)
        assert taps * low <= least <= most <= taps * high


def test_a_maximum_of_nothing_but_pads_is_the_lowest_number() -> None:
    b = Builder()
    slid = window((1, 2), pads=(0, 2, 0, 0))
    x = b.again(b.const(np.array([[[4], [9]]], np.int16)), window=slid)
    d = b.desc((*slid.out_counts((1, 2)), 1), "i16")
    b.run[0] += [op("VPOOL", d, x), op("BAR")]
    assert bounds(b, d) == reached(b, d) == (DTYPE_RANGES["i16"][0], 9)


@pytest.mark.parametrize("dtype", list(DTYPE_RANGES))
@pytest.mark.parametrize("ends", [(-70000, 70000), (-200, 300), (5, 6)])
def test_conversions_saturate(dtype: str, ends: tuple[int, int]) -> None:
    b = Builder()
    x, d = b.const(np.array(ends, np.int32)), b.desc((2,), dtype)
    b.run[0] += [op("VCVT", d, x), op("BAR")]
    assert bounds(b, d) == reached(b, d)


@pytest.mark.parametrize("value", [0, 5, -1, -(1 << 15), (1 << 15) - 1])
def test_fills(value: int) -> None:
    b = Builder()
    d = b.desc((2,), "i16")
    b.run[0] += [op("FILL", d, value % (1 << 16)), op("BAR")]
    assert bounds(b, d) == reached(b, d) == (value, value)


def test_tables_give_what_stands_between_the_ends_of_their_input() -> None:
    b = Builder()
    b.luts.append(np.random.default_rng(3).permutation(256).astype(np.uint8).tobytes())
    x, d = b.const(np.arange(40, 61, dtype=np.uint8)), b.desc((21,))
    b.run[0] += [op("VLUT", d, x, 0), op("BAR")]
    assert bounds(b, d) == reached(b, d)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-9, 17)])
@pytest.mark.parametrize("dtype", ["u8", "i8", "i16"])
def test_requantised_numbers_keep_to_their_clip_and_their_type(low: int, high: int, dtype: str) -> None:
    b = Builder()
    x = b.const(np.array([-1 << 20, 1 << 20], np.int32))
    d = b.desc((2,), dtype)
    b.run[0] += [op("VRQ", d, x, b.requant(1, 0, 2, low=low, high=high)), op("BAR")]
    least, most = DTYPE_RANGES[dtype]
    assert bounds(b, d) == (max(low, least), min(high, most))
    assert bounds(b, d) == reached(b, d)
