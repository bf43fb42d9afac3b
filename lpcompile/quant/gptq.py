"""GPTQ: round input by input, each time from weights that make up for the errors so far.

[frantar2023, sec. 3.3] Scales are given and stay, so inputs may come in any order at no cost. Errors within a block of
inputs are added as they arise, those of the blocks before it by one matrix product.
"""

from collections.abc import Callable

import numpy as np

from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.gram_factor import DAMPING, GramFactor, factor
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, UnitRows, arranged, row_slots, unit_rows

BLOCK = 128
Held = Callable[[int, F32], F32]


def gptq(
    rows: F32,
    tensor: QuantizedTensor,
    gram: Real,
    groups: Index | None = None,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
    order: str = "activation",
) -> QuantizedTensor:
    """The tensor with codes of small output error tr(E H E^T); its own codes do not matter.

    Args:
        rows: the real weights, (R, K) float32.
        tensor: gives format and scales, of that shape: per tensor, per channel or integer groups.
        gram: (G, K, K) E[x x^T] of what the rows multiply. Inputs that are always zero get the nearest codes.
        groups: (R,) the matrix of each row; None for equal runs of rows, as a grouped convolution has them.
        damping: added to the diagonals, relative to their mean.
        block: inputs between two matrix products; changes the time only.
        order: "activation" takes inputs of large second moment first, "natural" as they come.

    Raises:
        FormatError: shapes do not fit; zero points or float group scales.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    return gptq_factored(rows, tensor, factor(gram, damping, order), groups, block=block)


def gptq_factored(
    rows: F32,
    tensor: QuantizedTensor,
    factors: GramFactor,
    groups: Index | None = None,
    *,
    block: int = BLOCK,
) -> QuantizedTensor:
    """`gptq` on matrices that were factored before: many formats and scales share one factor.

    Args:
        rows: as in `gptq`.
        tensor: as there.
        factors: of the layer's Gram matrices.
        groups: as there.
        block: as there.

    Raises:
        FormatError: as there.
    """
    units = unit_rows(rows, tensor, len(factors.order), groups, factors.order)
    whole = len(units.used) == len(factors.order)
    feedback = factors.feedback if whole else factors.feedback[units.used]
    return units.tensor(rounded_levels(units, feedback, block))


def rounded_levels(units: UnitRows, feedback: F32, block: int = BLOCK, held: Held | None = None) -> F32:
    """(G, K, P) levels.

    Args:
        units: the real weights in steps.
        feedback: as of `GramFactor`, of the matrices that are used.
        block: as in `gptq`.
        held: what becomes of levels (G, P) of the k-th input where something else is added and rounded afterwards; its
            error is made up for, too.
    """
    values = units.values
    errors, levels = np.empty_like(values), np.empty_like(values)
    columns = values.shape[1]
    for start in range(0, columns, block):
        end = min(start + block, columns)
        wanted = values[:, start:end]
        if start:
            wanted = wanted + feedback[:, start:end, :start] @ errors[:, :start]
        for k in range(start, end):
            x = wanted[:, k - start]
            if k > start:
                x = x + fed_back(feedback[:, :, start:k], k, errors[:, start:k])
            levels[:, k] = units.round(k, x)
            came = levels[:, k] if held is None else held(k, levels[:, k])
            np.subtract(values[:, k], came, out=errors[:, k])
    return levels


def fed_back(factors: F32, k: int, errors: F32) -> F32:
    """(G, P) sum over j of factors[:, k, j] * errors[:, j]."""
    if len(factors) == 1:  # called for every input: the shortest way there
        found: F32 = factors[0, k].dot(errors[0])
        return found[None]
    return (factors[:, k, None] @ errors)[:, 0]


def rounded_values(rows: F32, tensor: QuantizedTensor, factors: GramFactor) -> F32:
    """(R, K) what GPTQ rounds to these codes: weights that make up for the errors of the inputs before them.

    With codes q the loss is sum_k D_k (x_k - q_k)^2 of these values x, in any order of rounding.

    Args:
        rows: (R, K) the real weights, equal runs of rows for each matrix.
        tensor: their codes.
        factors: of the layer's Gram matrices.
    """
    _, slots = row_slots(len(rows), len(factors.order), None)
    quantised = tensor.dequantize()
    errors = arranged(np.asarray(rows - quantised, np.float32), slots, factors.order)
    made = np.empty_like(quantised)
    fed = errors + factors.feedback @ errors
    made[slots[:, :, None], factors.order[:, None, :]] = fed.transpose(0, 2, 1)
    return quantised + made


def expected_errors(errors: F32, factors: GramFactor, groups: Index) -> F32:
    """(R, K) errors as GPTQ would leave them, from errors of nearest codes under the same scales.

    What GPTQ rounds is w plus what it makes up for, and the errors of rounding that are spread like those of rounding
    w: so e = r R^-1 with r = nearest - w. No codes are chosen: one triangular solve tells formats and scales apart.

    Args:
        errors: (R, K) r.
        factors: of the layer's Gram matrices.
        groups: (R,) the matrix of each row.
    """
    used, slots = row_slots(len(errors), len(factors.order), groups)
    whole = len(used) == len(factors.order)
    order, feedback = (
        (factors.order, factors.feedback) if whole else (factors.order[used], factors.feedback[used])
    )
    found = arranged(np.asarray(errors, np.float32), slots, order)
    for start, inverse in factors.inverse_blocks:
        end = start + inverse.shape[1]
        wanted = found[:, start:end]
        if start:
            wanted = wanted - feedback[:, start:end, :start] @ found[:, :start]
        found[:, start:end] = (inverse if whole else inverse[used]) @ wanted
    made = np.empty_like(errors, np.float32)
    made[slots[:, :, None], order[:, None, :]] = found.transpose(0, 2, 1)
    return made
