"""MACs from their integer form: widths of the notes, cells counted by hand, and products enumerated."""

import itertools

import numpy as np
import pytest

from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat
from lpcompile.assignment.mac_energy import (
    SHIFTER_RANGE,
    CellEnergies,
    mac_of,
    overhead_against_all_fixp4,
    posit_overhead,
)
from lpcompile.formats.base import resolve
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.target import LayerShape

ONE = CellEnergies(1.0, 100.0, 10_000.0, 1e6)  # of a figure in these cells, two digits each are a count


def test_widths_are_those_of_the_notes() -> None:
    """Notes mixed-posit.md 2.10, sums of 4608 products."""
    four, eight = mac_of("posit4", 4, 4608, signed=True), mac_of("posit4", 8, 4608)
    assert (four.product_bits, four.accumulator_bits, eight.accumulator_bits) == (9, 21, 26)
    assert mac_of("fixp4", 4, 4608, signed=True).product_bits == 8


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("fmt", ["fixp4", "posit4", "int8", "nf4"])
def test_no_product_and_no_sum_overflows_and_one_bit_less_would(fmt: str, bits: int, signed: bool) -> None:
    image = resolve(fmt).image()
    assert image is not None
    activations = np.arange(-(1 << bits - 1), 1 << bits - 1) if signed else np.arange(1 << bits)
    known = image[~np.isnan(resolve(fmt).table())].astype(np.int64)
    products = np.outer(known, activations)
    mac = mac_of(fmt, bits, 9, signed=signed)
    for width, values in ((mac.product_bits, products), (mac.accumulator_bits, 9 * products)):
        assert values.min() >= -(1 << width - 1)
        assert values.max() < 1 << width - 1
        assert values.min() < -(1 << width - 2) or values.max() >= 1 << width - 2


@pytest.mark.parametrize("signed", [True, False])
def test_the_integer_form_gives_every_product(signed: bool) -> None:
    """The cells that are counted can do it: an adder of b + 1 bits, three stages, a negation with carry-in."""
    image = resolve("posit4").image()
    assert image is not None
    forms = {
        (-1) ** s * u << e: (s, u, e)
        for s, u, e in itertools.product((0, 1), (1, 3), range(5))
        if u << e <= 16
    }
    for weight in sorted({int(w) for w in image} - {0}):
        s, u, e = forms[weight] if weight > 0 else (1, *forms[-weight][1:])
        for a in range(-8, 8) if signed else range(16):
            chosen = a + (a << 1) if u == 3 else a
            for stage in range(3):
                chosen <<= (1 << stage) * (e >> stage & 1)
            mask = -s
            assert (chosen ^ mask) + s == weight * a


def test_cells_counted_by_hand() -> None:
    """8-bit unsigned activations, 64 products: posit4 sums 64 * 4080 in 19 bits, fixp4 64 * 2040 in 18."""
    posit, fixed = mac_of("posit4", 8, 64), mac_of("fixp4", 8, 64)
    assert (posit.product_bits, posit.accumulator_bits) == (13, 19)
    assert posit.full_adders == 9 + 19
    assert posit.multiplexers == 10 + 3 * 12 + 12 + 11
    assert posit.registers == 19 + 4 + 8
    assert (fixed.multiplier_cells, fixed.full_adders, fixed.registers) == (32, 18, 18 + 4 + 8)
    assert posit.energy_fj(ONE) == 28 + 69e4 + 31e6
    assert fixed.energy_fj(ONE) == 18 + 3200 + 30e6
    expected = (28 * 3.125 + 69 * 57 / 64 + 31 * 9) / (32 * 3.125 + 18 * 3.125 + 30 * 9)
    assert posit_overhead(8, 64) == pytest.approx(expected - 1)


def test_an_eight_bit_multiplier_is_the_published_one() -> None:
    assert 64 * CellEnergies().multiplier_cell == 200
    assert mac_of("int8", 8, 1).multiplier_cells == 64
    assert mac_of("float4_e2m1fn", 8, 1).multiplier_cells == 5 * 8  # integers up to 12 and their negatives
    with pytest.raises(ValueError, match="posit8 has no integers"):
        mac_of("posit8", 8, 1)


@pytest.mark.parametrize(("bits", "signed"), [(4, True), (4, False), (8, False)])
def test_the_shifter_decides_how_much_more_a_posit_takes(bits: int, signed: bool) -> None:
    low, middle, high = (
        posit_overhead(bits, 4608, signed=signed, cells=c) for c in (SHIFTER_RANGE[0], None, SHIFTER_RANGE[1])
    )
    assert low < middle < high
    assert low > -0.1
    assert high < 0.1


def layer(name: str, rows: int, inputs: int, outputs: int) -> LayerFacts:
    shape = LayerShape("Conv", 4, inputs, outputs, rows, 1, (1, 1), rows * inputs)
    return LayerFacts(name, shape, (outputs, inputs), rows * inputs * outputs, rows * outputs)


def held(fmt: str, bits: int = 8, kernel: Kernel = Kernel.INTEGER) -> LayerFormat:
    return LayerFormat(WeightPlan(fmt), bits, kernel)


EARLY, LATE = layer("early", 1024, 64, 64), layer("late", 16, 64, 512)


def test_parameters_are_not_macs() -> None:
    """The late layer holds 8 of 9 weights and 1 of 9 MACs."""
    found = overhead_against_all_fixp4([(EARLY, held("fixp4")), (LATE, held("posit4"))])
    assert found.of_parameters == pytest.approx(8 / 9)
    assert found.of_macs == pytest.approx(1 / 9)
    ratio = posit_overhead(8, 64)
    assert found.energy_overhead == pytest.approx(ratio / 9)
    assert found.by_parameters == pytest.approx(8 * ratio / 9)


def test_all_posit_costs_what_one_mac_does_and_none_costs_nothing() -> None:
    both = [(EARLY, held("posit4", 4)), (LATE, held("posit4", 4))]
    assert overhead_against_all_fixp4(both).energy_overhead == pytest.approx(posit_overhead(4, 64))
    none = overhead_against_all_fixp4([(EARLY, held("fixp4")), (LATE, held("int8"))])
    assert (none.of_parameters, none.of_macs, none.energy_overhead) == (0, 0, None)


def test_other_layers_stand_on_both_sides() -> None:
    found = overhead_against_all_fixp4([(EARLY, held("int8")), (LATE, held("posit4"))])
    rest = 8 * mac_of("int8", 8, 64).energy_fj()
    posit, fixed = (mac_of(f, 8, 64).energy_fj() for f in ("posit4", "fixp4"))
    assert found.energy_overhead == pytest.approx((rest + posit) / (rest + fixed) - 1)


def test_posits_on_floats_count_in_the_shares_alone() -> None:
    weight_only = held("posit4", 32, Kernel.WEIGHT_ONLY)
    found = overhead_against_all_fixp4([(EARLY, held("fixp4")), (LATE, weight_only)])
    assert found.of_macs > 0
    assert found.energy_overhead is None
    assert overhead_against_all_fixp4([]).of_parameters == 0
