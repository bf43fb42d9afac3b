"""Squared rounding error as a function of the scale, for many groups of weights, levels and scales at once.

What a weight w loses when rounded to `s * levels` depends on w / s alone: relative to w^2 it is
psi(w / s) = (1 - nearest(w / s) / (w / s))^2. So the error of a group at scale s is the sum over bins of |w| of
(weighted energy in the bin) x (mean of psi over the bin), and for all groups and all scales that is one matrix
product `psi @ energies`. The energies are the same for every format and add up from small groups to large ones.

Bins are those of the float32 bit pattern: 16 an octave, ten octaves below the largest magnitude of the row, one set
for each sign. Energies and psi are kept as small integers, so that sums in float32 are exact whatever their order:
results do not depend on the BLAS library or its threads.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.nearest import Nearest

_MANTISSA_BITS = 4
_OCTAVES = 10
_SHIFT = 23 - _MANTISSA_BITS
_FIRST = (127 - _OCTAVES) << _MANTISSA_BITS  # bit pattern of the lower end of the lowest bin
BINS = (_OCTAVES << _MANTISSA_BITS) + 1  # of one sign; the last one holds the largest magnitude alone
_ENERGY_STEPS = 1 << 11  # of a group
_PSI_STEPS = 1 << 12
_SAMPLES = 8  # of psi within a bin
LANES = 16  # groups side by side


@dataclass(frozen=True)
class Energies:
    """Where the weighted energy of N groups lies.

    Attributes:
        shares: (ceil(N / LANES), 2 * BINS, LANES) in steps of 1/2048 of each group's energy, whole numbers; positive
            weights first. The last lanes may stay empty.
        energy: (N,) sum of importance * w^2.
    """

    shares: F32
    energy: F32


def group_energies(relative: F32, size: int, importance: F32) -> Energies:
    """Bin the weights of rows by magnitude.

    Args:
        relative: (R, K) weights, each row divided by its largest magnitude.
        size: of a group; the last one of a row may be shorter.
        importance: (K,) weights of the squared errors.

    Returns:
        R * ceil(K / size) groups, row by row.
    """
    rows, columns = relative.shape
    starts = np.arange(0, columns, size)
    weighted = relative * relative
    weighted *= importance
    energy = np.add.reduceat(weighted, starts, axis=1).reshape(-1)
    bits = relative.view(np.uint32)
    index = (bits & np.uint32(0x7FFFFFFF)) >> np.uint32(_SHIFT)
    np.maximum(index, np.uint32(_FIRST), out=index)
    index -= np.uint32(_FIRST)
    index += (bits >> np.uint32(31)) * np.uint32(BINS)
    at = index.astype(np.intp)
    at *= LANES
    group = np.arange(rows)[:, None] * len(starts) + np.arange(len(starts))
    first = group // LANES * (2 * BINS * LANES) + group % LANES
    at += np.repeat(first, size, axis=1)[:, :columns]
    bundles = -(-group.size // LANES)
    found = np.bincount(at.reshape(-1), weighted.reshape(-1), minlength=bundles * 2 * BINS * LANES)
    return _shares(found.astype(np.float32).reshape(bundles, 2 * BINS, LANES), energy)


def _shares(weighted: F32, energy: F32) -> Energies:
    steps = np.zeros(len(weighted) * LANES, np.float32)
    alive = energy > np.float32(1e-30)
    steps[: energy.size][alive] = np.float32(_ENERGY_STEPS) / energy[alive]
    weighted *= steps.reshape(-1, 1, LANES)
    return Energies(np.rint(weighted, out=weighted), energy)


def errors(energies: Energies, psi: F32) -> F32:
    """(P, N) weighted squared errors of N groups at P scales, in units of `energies.energy`."""
    found = np.matmul(psi, energies.shares)  # small products: the BLAS library starts no threads for them
    curve = np.empty((len(psi), found.shape[0] * LANES), np.float32)
    curve.reshape(len(psi), -1, LANES)[:] = found.transpose(1, 0, 2)
    curve = curve[:, : energies.energy.size]
    curve *= energies.energy * np.float32(1 / (_ENERGY_STEPS * _PSI_STEPS))
    return curve


def paired(curve: F32, groups: int) -> F32:
    """Errors (P, R * ceil(groups / 2)) of groups joined in pairs within rows of `groups`; an odd last one stays."""
    rows = curve.reshape(len(curve), -1, groups)
    joined = rows[:, :, ::2].copy()
    joined[:, :, : groups // 2] += rows[:, :, 1::2]
    return joined.reshape(len(curve), -1)


@lru_cache(maxsize=1)
def _magnitudes() -> F64:
    """(BINS, _SAMPLES) magnitudes within each bin, relative to the largest of the row."""
    edges = ((np.arange(BINS + 1, dtype=np.uint32) + np.uint32(_FIRST)) << np.uint32(_SHIFT)).view(np.float32)
    low, high = edges[:-1].astype(np.float64), edges[1:].astype(np.float64)
    high[-1] = low[-1]
    within = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    return low[:, None] + (high - low)[:, None] * within


def relative_errors(levels: Nearest, scales: F64) -> F32:
    """psi, (P, 2 * BINS), in whole steps.

    Args:
        levels: what is rounded to.
        scales: (P,) relative to the largest magnitude of the row.
    """
    magnitudes = _magnitudes()
    quotients = magnitudes[None] / scales[:, None, None]
    both = np.concatenate([quotients, -quotients], axis=1).astype(np.float32)
    lost: NDArray[np.float32] = 1 - levels.round_block(both.reshape(-1)).reshape(both.shape) / both
    psi = np.minimum((lost * lost).mean(axis=2), np.float32(4))  # above 1 only where zero is no level
    return np.asarray(np.rint(psi * np.float32(_PSI_STEPS)), np.float32)
