"""The arithmetic of one layer with weights: its products, and the scales that belong to them. [notes pikelpn.md 2.2].

A MAC counts at the width of its operands: payload bits, for a float its width; 8 bits for codebooks, whose codes are
looked up for nothing but cannot be multiplied, where a side path is merged into the weights, and for the int8 image of
codes that are read as FP8. Powers of two (`pot4`) shift; with group scales they are none any more, and multiply. Group
scales are one product and one addition an output and group. Requantising an output is a product and an addition, as
wide as `requantisation` says; clips are counted by `lpcompile.accounts`.
"""

from collections import Counter
from collections.abc import Mapping

from lpcompile.analysis.arithmetic import ACCUMULATOR_BITS, Kind, Operation
from lpcompile.analysis.cost_classes import MAC, OTHER, SCALE, SHIFT_MAC
from lpcompile.assignment.layer_facts import FLOAT_BITS, LayerFacts, LayerFormat
from lpcompile.assignment.requantisation import FLOAT, Requantisation
from lpcompile.ir.block_matmul import BLOCK
from lpcompile.plan import APART, CONCAT_IN, Kernel

GROUP_BITS = 4
FLOAT8_BITS = 8
_POWERS_OF_TWO = ("pot4",)
_CODEBOOKS = ("nf4", "lut4")
_IMAGE_BITS = 8
FACTOR_BITS, HIDDEN_BITS = 8, 16  # of a separate side path
CONCAT_HIDDEN_BITS = 8

Work = Mapping[tuple[str, Operation], int]  # by class and operation: how often in a call


def operand_bits(held: LayerFormat) -> int:
    """Width of the weight in a product of integers."""
    merged = bool(held.weight.rank) and held.weight.side_lowering not in APART
    if held.weight.codebooks or merged or held.has_image or held.weight.format.startswith(_CODEBOOKS):
        return _IMAGE_BITS
    return held.weight_bits


def layer_operations(layer: LayerFacts, held: LayerFormat, requantisation: Requantisation = FLOAT) -> Work:
    """What a call of a layer computes, by class of `report.cost`.

    Args:
        layer: the layer.
        held: how.
        requantisation: of a layer that gives integers; others give floats, and scale as floats.
    """
    outputs, found = layer.output_elements, Counter[tuple[str, Operation]]()
    if not held.on_integers:
        width = FLOAT_BITS.get(held.weight.format, 32)
        found[MAC, Operation(Kind.MAC, width, width, floats=True)] += layer.macs
        if layer.has_bias:
            found[OTHER, Operation(Kind.ADD, width, width, floats=True)] += outputs
        return +found
    if (
        held.kernel is Kernel.FLOAT8
    ):  # codes expand as they are read, and a backend folds both scales into one
        found[MAC, Operation(Kind.MAC, FLOAT8_BITS, FLOAT8_BITS, floats=True)] += layer.macs
        found[SCALE, Operation(Kind.MULTIPLY, 32, ACCUMULATOR_BITS, floats=True)] += outputs
        if layer.has_bias:
            found[OTHER, Operation(Kind.ADD, 32, ACCUMULATOR_BITS, floats=True)] += outputs
        return +found
    groups, bits = 0 if held.has_image else held.groups_of(layer.shape.inputs), held.activation_bits
    if held.weight.format in _POWERS_OF_TWO and not groups:
        found[SHIFT_MAC, Operation(Kind.SHIFT_MAC, bits, held.weight_bits)] += layer.macs
    else:
        found[MAC, Operation(Kind.MAC, operand_bits(held), bits)] += layer.macs
    if groups:
        found[SCALE, Operation(Kind.MULTIPLY, GROUP_BITS, ACCUMULATOR_BITS)] += outputs * groups
        found[SCALE, Operation(Kind.ADD, ACCUMULATOR_BITS, ACCUMULATOR_BITS)] += outputs * groups
    if held.weight.side_lowering in APART:
        _add_side_path(found, layer, held)
    scaled = requantisation if held.kernel is Kernel.INTEGER else FLOAT
    times = -(-layer.shape.inputs // BLOCK) if held.kernel is Kernel.NBITS else 1
    added = times - 1 + (held.kernel is Kernel.INTEGER or layer.has_bias)
    found[SCALE, scaled.multiply()] += outputs * times
    found[SCALE, scaled.add] += outputs * added
    if scaled.shift is not None:
        found[SCALE, scaled.shift] += outputs
    return +found


def _add_side_path(found: Counter[tuple[str, Operation]], layer: LayerFacts, held: LayerFormat) -> None:
    """Two products with factors of 8 bits, a requantisation after each, and the sum with the main path's.

    Where the hidden numbers stand beside the inputs, the second product is more of the main path's.
    """
    rank, outputs = held.weight.rank, layer.output_elements
    hidden = outputs // max(1, layer.shape.outputs) * rank
    found[MAC, Operation(Kind.MAC, FACTOR_BITS, held.activation_bits)] += hidden * layer.shape.inputs
    if held.weight.side_lowering == CONCAT_IN:
        found[MAC, Operation(Kind.MAC, FACTOR_BITS, CONCAT_HIDDEN_BITS)] += outputs * rank
        for kind in (Kind.MULTIPLY, Kind.ADD):
            found[SCALE, Operation(kind, CONCAT_HIDDEN_BITS, ACCUMULATOR_BITS)] += hidden
        return
    found[MAC, Operation(Kind.MAC, FACTOR_BITS, HIDDEN_BITS)] += outputs * rank
    for kind in (Kind.MULTIPLY, Kind.ADD):
        found[SCALE, Operation(kind, HIDDEN_BITS, ACCUMULATOR_BITS)] += hidden + outputs
    found[SCALE, Operation(Kind.ADD, ACCUMULATOR_BITS, ACCUMULATOR_BITS)] += outputs


def ace(layer: LayerFacts, held: LayerFormat) -> float:
    """Arithmetic computation effort: MACs times payload bits times activation bits."""
    return float(layer.macs * held.weight_bits * held.activation_bits)


def acev2_by_class(work: Work) -> dict[str, float]:
    """ACEv2 of some work, by class."""
    found: dict[str, float] = {}
    for (name, operation), times in work.items():
        found[name] = found.get(name, 0.0) + float(times * operation.acev2)
    return found


def energy45nm_pj(work: Work) -> float:
    """Picojoules of some work at 45 nm, no memory among it."""
    return float(sum(times * operation.energy45nm_pj for (_, operation), times in work.items()))
