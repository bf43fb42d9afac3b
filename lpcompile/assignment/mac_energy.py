"""Energy of a MAC, posit4 or fixed point times fixed point, from its integer form. [azizi2023; notes sec. 2.10, 4.2].

A posit4 weight (es = 0) is (-1)^s * u * 2^e / 4 with u in {1, 3}, e in 0..4, so its product with an activation a of b
bits is `(u == 3 ? a + 2a : a) << e`, negated where s: an adder, a shifter, no multiplier. Cells that switch for one
MAC, p the bits of the product, A those of the accumulator for K products:

| part          | fixp<w> times b                | posit4 times b                                                      |
|---------------|--------------------------------|---------------------------------------------------------------------|
| multiplier    | w * b cells (AND, full adder)  | -                                                                   |
| small adder   | -                              | b + 1 full adders: a + 2a, the lowest bit passes                    |
| multiplexers  | -                              | b + 2 for u; 3 stages of the shifter, p - 1 bits each               |
| negation      | -                              | p - 1 exclusive-or gates, priced as multiplexers; +1 is a carry-in  |
| decoder       | -                              | 3 half adders (negated codes), 8 gates: 11 multiplexers             |
| accumulator   | A full adders                  | A full adders                                                       |
| registers     | A + w + b                      | A + 4 + b                                                           |

Assumed: every cell costs what it costs on average in the published figures, whatever the data; decoding happens for
every MAC (arrays that keep decoded weights do it once); registers hold both operands and the sum. A is the least that
never overflows. Pipelining, wires and clocks are counted for neither. Published shifts spread between 0.6 and 1.3 times
the line of additions [notes pikelpn.md 2.2], and the ratio with them (`SHIFTER_RANGE`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat
from lpcompile.formats.base import resolve

POSIT, FIXED = "posit4", "fixp4"
PAPER_OVERHEAD = 0.0019  # of [azizi2023], average over its networks: shown beside ours, used in no figure
ASSUMPTIONS = (
    {
        "what": "the MAC energy of posit4 against fixp4 is that of counted cells (full adders, multiplier cells, "
        "multiplexers, registers) at averages of published 45 nm figures; no wires, no clock, a decoder a MAC",
        "source": "assumed: [horowitz2014], shifts of [you2020] and [elhoushi2021], registers of [hwcomponents]",
    },
)
_SHIFT_STAGES = 3  # e in 0..4
_DECODER_GATES = 11


@dataclass(frozen=True, slots=True)
class CellEnergies:
    """Energies of one cell at 45 nm, 0.9 V, in fJ.

    Attributes:
        full_adder: 32-bit addition, 0.1 pJ, a bit [horowitz2014].
        multiplier_cell: 8 by 8 multiplication, 0.2 pJ, over 64 cells [horowitz2014].
        multiplexer: 16-bit shift, 0.057 pJ, over 4 stages of 16 [you2020, elhoushi2021].
        register: a bit, 9 fJ (Aladdin at 40 nm by way of [hwcomponents]); 0 leaves registers out.
    """

    full_adder: float = 100 / 32
    multiplier_cell: float = 200 / 64
    multiplexer: float = 57 / 64
    register: float = 9.0


SHIFTER_RANGE = tuple(
    CellEnergies(multiplexer=c * 3.1 / 4) for c in (0.6, 1.3)
)  # least, most; 4 stages of 16 bits


@dataclass(frozen=True, slots=True)
class Mac:
    """Cells of one MAC.

    Attributes:
        product_bits: of a signed product.
        accumulator_bits: of a signed sum that never overflows.
        multiplier_cells, full_adders, multiplexers, registers: as in the table above.
    """

    product_bits: int
    accumulator_bits: int
    multiplier_cells: int
    full_adders: int
    multiplexers: int
    registers: int

    def energy_fj(self, cells: CellEnergies | None = None) -> float:
        """Energy of the MAC."""
        c = cells or CellEnergies()
        return (
            self.multiplier_cells * c.multiplier_cell
            + self.full_adders * c.full_adder
            + self.multiplexers * c.multiplexer
            + self.registers * c.register
        )


def mac_of(weight_format: str, activation_bits: int, inputs: int, *, signed: bool = False) -> Mac:
    """The MAC of a weight format with an activation of so many bits.

    Args:
        weight_format: "posit4", or another with integers: they are multiplied as they are.
        activation_bits: of a fixed-point activation.
        inputs: K, products in a sum.
        signed: whether activations are -2^(b-1) ... 2^(b-1) - 1; else 0 ... 2^b - 1.

    Raises:
        FormatError: there is no such format.
        ValueError: its values are no multiples of one int8 step.
    """
    fmt, b = resolve(weight_format), activation_bits
    image = fmt.image()
    if image is None:
        raise ValueError(f"{fmt.name} has no integers to multiply")
    w = image[~np.isnan(fmt.table())].astype(np.int64)
    a = (-(1 << (b - 1)), (1 << (b - 1)) - 1) if signed else (0, (1 << b) - 1)
    ends = [int(v) * x for v in (w.min(), w.max()) for x in a]
    product = _signed_bits(min(ends), max(ends))
    total = _signed_bits(inputs * min(ends), inputs * max(ends))
    if fmt.name == POSIT:
        selected = (b + 2) + (_SHIFT_STAGES + 1) * (product - 1) + _DECODER_GATES
        return Mac(product, total, 0, b + 1 + total, selected, total + fmt.bits + b)
    width = (
        fmt.bits if fmt.name.startswith(("int", "uint", "fixp")) else _signed_bits(int(w.min()), int(w.max()))
    )
    return Mac(product, total, width * b, total, 0, total + width + b)


def _signed_bits(low: int, high: int) -> int:
    """Bits of two's complement that hold low ... high."""
    return max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + 1


def posit_overhead(
    activation_bits: int, inputs: int, *, signed: bool = False, cells: CellEnergies | None = None
) -> float:
    """E(posit4) / E(fixp4) - 1 of one MAC."""
    posit, fixed = (mac_of(f, activation_bits, inputs, signed=signed) for f in (POSIT, FIXED))
    return posit.energy_fj(cells) / fixed.energy_fj(cells) - 1


@dataclass(frozen=True, slots=True)
class PositShare:
    """How much of a network is posits, and what that costs.

    Attributes:
        of_parameters: p_n, share of posit weights among all.
        of_macs: p_m, share of MACs with posit weights.
        energy_overhead: of the MACs of all layers on integers, against the same with fixp4 in place of posit4; None
            where no posit layer runs on integers.
        by_parameters: the same with each layer counted by its weights in place of its MACs.
    """

    of_parameters: float
    of_macs: float
    energy_overhead: float | None
    by_parameters: float | None


def overhead_against_all_fixp4(
    layers: Sequence[tuple[LayerFacts, LayerFormat]], cells: CellEnergies | None = None
) -> PositShare:
    """Shares of posit layers in parameters and MACs, and their energy against fixp4.

    Only MACs are counted, as the paper's 0.19 % seems to do [notes sec. 4.2]. Layers that are not posit4 stand on both
    sides as they are; those on floats on neither. Other posits (es > 0, more bits) have no integer form: they count
    in the shares alone.
    """
    weights = sum(layer.weights for layer, _ in layers)
    macs = sum(layer.macs for layer, _ in layers)
    found = [(layer, held) for layer, held in layers if held.is_posit]
    mixed, fixed = np.zeros(2), np.zeros(2)
    any_posit = False
    for layer, held in layers:
        fmt = held.number_format
        if not held.on_integers or fmt is None or fmt.image() is None:
            continue
        counted = np.array([layer.macs, layer.weights], np.float64)
        bits, inputs = held.activation_bits, max(1, layer.shape.inputs)
        mixed += counted * mac_of(fmt.name, bits, inputs).energy_fj(cells)
        instead = FIXED if fmt.name == POSIT else fmt.name
        fixed += counted * mac_of(instead, bits, inputs).energy_fj(cells)
        any_posit |= fmt.name == POSIT
    by_macs, by_weights = (
        float(m / f - 1) if any_posit and f else None for m, f in zip(mixed, fixed, strict=True)
    )
    return PositShare(
        sum(layer.weights for layer, _ in found) / max(1, weights),
        sum(layer.macs for layer, _ in found) / max(1, macs),
        by_macs,
        by_weights,
    )
