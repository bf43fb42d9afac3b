"""DPQ's loop: GPTQ whose propagated error holds the FP8 rounding of what the INT4 code expands to.

Column by column in the order of the factor, v = W / s1 with what it makes up for goes straight to INT4 (no FP8
rounding in between), and the error that is passed on is v - cast8(s2 q). Scales were fixed before the loop. Codes are
kept: they are never derived again from the expanded weights. [gafni2025, notes E7, B5, B6]
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, Real
from lpcompile.quant.dual_precision import LOW, DualPrecisionTensor, Stages, expanded_levels, nearest_codes
from lpcompile.quant.expanded_codes import cuts_of, places, searched_scales
from lpcompile.quant.gptq import BLOCK
from lpcompile.quant.gram_factor import DAMPING, GramFactor, factor
from lpcompile.quant.group_order import group_aware_order
from lpcompile.quant.unit_rows import Index, arranged, row_slots

_NAMES = {"nearest": "fp8-nearest", "gptq-cast": "gptq-cast", "dpq": "dpq", "levels": "dpq-levels"}
RULES = tuple(_NAMES)
ROUNDINGS = ("fp8-nearest", *(n + o for n in ("gptq-cast", "dpq", "dpq-levels") for o in ("", "-gar")))
SCALE_RULES = ("absmax", "levels")
ORDERS = ("natural", "gar")


@dataclass(frozen=True, slots=True)
class DualRounding:
    """How codes and scales are chosen.

    Attributes:
        rule: "nearest": each weight by itself; "gptq-cast": GPTQ that knows nothing of the FP8 rounding; "dpq": the
            loop as published; "levels": the nearest expanded level, group scales searched before.
        order: "natural" or "gar".
        damping: added to the diagonals of the Gram matrices, relative to their mean.
        block: inputs between two matrix products; changes the time only.
    """

    rule: str = "levels"
    order: str = "natural"
    damping: float = DAMPING
    block: int = BLOCK

    @property
    def name(self) -> str:
        """One of ROUNDINGS: rule and order."""
        return _NAMES[self.rule] + ("-gar" if self.order == "gar" else "")

    @property
    def scale_rule(self) -> str:
        """How group scales are found: one of SCALE_RULES."""
        return "levels" if self.rule == "levels" else "absmax"

    @classmethod
    def of(cls, name: str, damping: float = DAMPING) -> "DualRounding":
        """From one of ROUNDINGS."""
        order = "gar" if name.endswith("-gar") else "natural"
        rule = next(k for k, v in _NAMES.items() if v == name.removesuffix("-gar"))
        return cls(rule, order, damping)


def dual_rounded(
    stages: Stages, gram: Real | None, how: DualRounding, factors: GramFactor | None = None
) -> DualPrecisionTensor:
    """The layer's codes and scales.

    Args:
        stages: its weights, scales to start from.
        gram: (G, K, K) E[x x^T], equal runs of rows for each; None where inputs are not known: codes are then
            nearest ones, under scales that are searched by the weights alone with "levels".
        how: rule and order.
        factors: of the matrices as `dual_factors` gives them, where another layer has them already.

    Raises:
        FormatError: rows are no whole number for each matrix.
        CalibrationError: matrices that are not finite or not (G, K, K).
    """
    if how.rule == "nearest":
        return stages.nearest()
    if gram is None:
        return (
            nearest_levels(replace(stages, scales=searched_scales(stages)))
            if how.rule == "levels"
            else stages.nearest()
        )
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    factors = factors or dual_factors(gram, how, stages.size)
    if how.rule != "levels":
        stages = without_dead(stages, diagonal)
    else:  # an input that is zero on all samples only may be alive elsewhere: nearest codes
        importance = (
            np.repeat(diagonal, len(stages.units) // len(diagonal), axis=0) if len(gram) > 1 else diagonal
        )
        stages = replace(stages, scales=searched_scales(stages, np.maximum(importance, 0).astype(np.float32)))
    return stages.tensor(loop_codes(stages, factors, how.rule, block=how.block))


def dual_factors(gram: Real, how: DualRounding, size: int) -> GramFactor:
    """The factors of a layer's Gram matrices in the order of its groups of `size` inputs."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    return factor(gram, how.damping, group_aware_order(diagonal, size) if how.order == "gar" else "natural")


def without_dead(stages: Stages, diagonal: Real) -> Stages:
    """Weights of inputs that are always zero taken out: their code is that of 0."""
    dead = np.repeat(np.asarray(diagonal) == 0, max(1, len(stages.units) // len(diagonal)), axis=0)
    return replace(stages, units=np.where(dead, np.float32(0), stages.units)) if dead.any() else stages


def nearest_levels(stages: Stages) -> DualPrecisionTensor:
    """Each weight at the nearest expanded level of its group."""
    cuts = np.moveaxis(cuts_of(expanded_levels(stages.scales)), -1, 0)
    spread = np.repeat(cuts, stages.size, axis=2)[:, :, : stages.units.shape[1]]
    return stages.tensor(places(stages.units, spread).astype(np.int8) + np.int8(LOW))


def loop_codes(stages: Stages, factors: GramFactor, rule: str, *, block: int = BLOCK) -> NDArray[np.int8]:
    """(R, K) codes -8..7.

    Args:
        stages: weights and scales.
        factors: of the layer's Gram matrices; groups of inputs are those of the natural order.
        rule: "gptq-cast", "dpq" or "levels".
        block: as of `DualRounding`.

    Raises:
        FormatError: rows are no whole number for each matrix.
    """
    rows, columns = stages.units.shape
    _, slots = row_slots(rows, len(factors.order), None)
    table = _Levels(stages, slots, rule)
    values = arranged(stages.units, slots, factors.order)
    errors = np.empty_like(values)
    codes = np.empty(values.shape, np.int8)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        wanted = values[:, start:end]
        if start:
            wanted = wanted + factors.feedback[:, start:end, :start] @ errors[:, :start]
        for k in range(start, end):
            x = wanted[:, k - start]
            if k > start:
                x = x + (factors.feedback[:, k, None, start:k] @ errors[:, start:k])[:, 0]
            at, levels = table.round(factors.order[:, k] // stages.size, x)
            codes[:, k] = at
            np.subtract(values[:, k], levels, out=errors[:, k])
    found = np.empty((rows, columns), np.int8)
    found[slots[:, :, None], factors.order[:, None, :]] = codes.transpose(0, 2, 1)
    return found


class _Levels:
    """Rounds one input of all rows, (G, P), given which group of inputs it belongs to in each matrix."""

    def __init__(self, stages: Stages, slots: Index, rule: str) -> None:
        self._rule, self._slots = rule, slots
        self._scales = stages.scales
        levels = expanded_levels(stages.scales)  # (R, groups, 16)
        self._cuts = np.ascontiguousarray(cuts_of(levels).transpose(1, 2, 0)) if rule == "levels" else None
        self._levels = levels.transpose(1, 2, 0).copy()  # (groups, 16, R)

    def round(self, group: Index, x: F32) -> tuple[NDArray[np.int8], F32]:
        """Codes -8..7 and what GPTQ takes them for."""
        scales = self._scales[self._slots, group[:, None]]
        if self._cuts is None:
            codes = nearest_codes(x, scales)
            if self._rule == "gptq-cast":
                return codes, codes * scales
            at = codes - np.int8(LOW)
        else:
            own = self._cuts[group][:, :, self._slots[0]] if len(group) == 1 else self._own_cuts(group)
            at = places(x, own.transpose(1, 0, 2)).astype(np.int8)
            codes = at + np.int8(LOW)
        return codes, self._levels[group[:, None], at, self._slots]

    def _own_cuts(self, group: Index) -> F32:
        assert self._cuts is not None
        return self._cuts[group[:, None], :, self._slots].transpose(0, 2, 1)
