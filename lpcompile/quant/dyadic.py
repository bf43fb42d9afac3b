"""Dyadic requantisation: `y = clip(((acc * m + b) >> k) + zero, low, high)` in place of a real scale and shift.

A real map `scale * acc + shift` becomes `m = rint(scale * 2^k)`, a signed 16-bit integer, and `b = rint(shift * 2^k)`
with the rounding constant `2^(k-1)` inside; `k` is the largest shift for which `m` fits.  Before it is rounded, half
up, the result is off by at most `(|acc| + 1) * 2^-(k+1)`, a relative error of 2^-15 of `scale * acc`. Where a
multiplier is to have fewer bits (`multipliers`), `m` has no more than these.
`|acc * m + b| + (zero << k) < 2^52` is proven here, so that float64 computes the same integers. [architecture 3.5]
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
MULTIPLIER_BITS = 16
MOST_SHIFT = 62
PROVEN_BITS = 52
_EXACT = 2**PROVEN_BITS
EXACT_IN_FLOAT32 = 2**24
_CHUNK = 1 << 20
RADIX = {1: 256, 2: 16, 4: 4}  # number of digits that int8 weights are split into -> their radix


@dataclass(frozen=True, slots=True, eq=False)
class Requant:
    """The integers of one requantisation.

    Attributes:
        m: int64 holding int16 values: (C,), (1,), (1, 1, *positions) of a pool, or (2,) of a sum of two tensors.
        b: int64, (C,) or (1,).
        k: int64, (C,) or (1,).
        zero: code of zero of the result.
        low, high: the least and the largest code of the result.
    """

    m: I64
    b: I64
    k: I64
    zero: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Codes:
    """The integers of one tensor: its code of zero, and the least and largest code that it may hold."""

    zero: int
    low: int
    high: int

    @property
    def farthest(self) -> int:
        """The largest distance of a code from the code of zero."""
        return max(self.zero, abs(self.high - self.zero))


def requantised(acc: I64, r: Requant, trailing: int = 0) -> I64:
    """Codes of accumulators.

    Args:
        acc: integers.
        r: what to do with them.
        trailing: axes of `acc` after the one that `m`, `b` and `k` run along.
    """
    m, b, k = (v.reshape(*v.shape, *[1] * trailing) if v.ndim == 1 else v for v in (r.m, r.b, r.k))
    return np.asarray(np.clip(((acc * m + b) >> k) + r.zero, r.low, r.high))


def affine_requant(
    scale: F64, shift: F64, least: I64, most: I64, out: Codes, bits: int = MULTIPLIER_BITS - 1
) -> Requant:
    """The requantisation of accumulators that `scale * acc + shift` maps to codes less their zero.

    Args:
        scale: (C,), in steps of the result.
        shift: (C,), in steps of the result.
        least: (C,), what the accumulators are proven not to fall below.
        most: (C,), what they are proven not to exceed.
        out: of the result.
        bits: of the magnitude of the multipliers.
    """
    k = shifts(scale, bits)
    while True:
        half = np.where(k > 0, np.int64(1) << np.maximum(k - 1, 0), 0)
        m = _multiplier(scale, k, bits)
        wide = np.abs(shift) * 2.0**k  # checked as floats first: it may not fit int64
        b = np.rint(np.where(wide < _EXACT, shift * 2.0**k, 0)).astype(np.int64) + half
        reach = np.maximum(np.abs(least * m + b), np.abs(most * m + b)) + (np.int64(out.zero) << k)
        beyond = (wide >= _EXACT) | (reach >= _EXACT) | (out.zero * 2.0**k >= _EXACT)
        if not beyond.any():
            return Requant(m, b, k, out.zero, out.low, out.high)
        if (beyond & (k == 0)).any():
            return _saturated(scale, shift, out)
        k = np.where(beyond, k - 1, k)


def _saturated(scale: F64, shift: F64, out: Codes) -> Requant:
    """A shift of 2^51 steps and more, which no real tensor has, sends every code to one end."""
    bounded = np.clip(shift, -(2.0**20), 2.0**20)
    zeros = np.zeros(scale.shape, np.int64)
    return affine_requant(np.zeros_like(scale), bounded, zeros, zeros, out)


def sum_requant(scales: tuple[float, float], zeros: tuple[int, int], out: Codes) -> Requant:
    """One rounding for a sum of two tensors of 8-bit codes; both zeros give exactly zero.

    Args:
        scales: of the operands, in steps of the result; negative where one is subtracted.
        zeros: codes of zero of the operands.
        out: of the result.
    """
    largest = np.array([max(abs(s) for s in scales)])
    k = int(shifts(largest)[0])
    while (out.zero + 1) << k >= _EXACT >> 1:
        k -= 1
    m = _multiplier(np.array(scales), np.array([k, k]), MULTIPLIER_BITS - 1)
    half = (1 << k) >> 1
    b = half - sum(int(f) * z for f, z in zip(m, zeros, strict=True))
    return Requant(m, np.array([b]), np.array([k]), out.zero, out.low, out.high)


def shifts(scale: F64, bits: int = MULTIPLIER_BITS - 1) -> I64:
    """The largest k for which `rint(|scale| * 2^k)` has at most so many bits, within 0 .. MOST_SHIFT."""
    top = 2.0**bits
    mantissa, exponent = np.frexp(np.abs(scale))
    k = bits - exponent.astype(np.int64) - (np.rint(mantissa * top) >= top)
    return np.asarray(np.clip(k, 0, MOST_SHIFT))


def _multiplier(scale: F64, k: I64, bits: int) -> I64:
    """Scales beyond 2^bits, under which nearly any accumulator but 0 saturates, keep the largest multiplier."""
    top = 2.0**bits - 1
    return np.asarray(np.rint(np.clip(scale * 2.0**k, -top, top)).astype(np.int64))


def accumulator_reach(rows: NDArray[np.int8], x: Codes) -> tuple[I64, I64]:
    """What sums of `w * (q - zero)` lie between, (C,) each, whatever the codes and wherever zeros pad.

    Args:
        rows: (C, K).
        x: of the input.
    """
    positive = _row_sums(rows, lambda w: np.maximum(w, 0)).astype(np.int64)
    negative = _row_sums(rows, lambda w: np.minimum(w, 0)).astype(np.int64)
    below, above = x.low - x.zero, x.high - x.zero
    return positive * below + negative * above, positive * above + negative * below


def split_digits(rows: NDArray[np.int8], digits: int) -> list[NDArray[np.float32]]:
    """Signed digits, lowest first, with `w = sum_i digit_i * radix^i`: what the bodies of layers compute."""
    rest, found = rows.astype(np.float32), []
    for _ in range(digits - 1):
        higher = np.rint(rest / RADIX[digits])
        found.append(rest - higher * RADIX[digits])
        rest = higher
    return [*found, rest]


def digits_needed(rows: NDArray[np.int8], x: Codes) -> int | None:
    """Into how many digits weights are split so that float32 sums are exact; None where not even 4 do."""
    for digits in RADIX:
        largest = max(
            float(_row_sums(rows, partial(_magnitude, digits, i)).max(initial=0)) for i in range(digits)
        )
        if largest * x.farthest < EXACT_IN_FLOAT32:
            return digits
    return None


def _magnitude(digits: int, i: int, rows: NDArray[np.int8]) -> NDArray[np.float32]:
    return np.abs(split_digits(rows, digits)[i])


def _row_sums(rows: NDArray[np.int8], function: Callable[[NDArray[np.int8]], NDArray[Any]]) -> F64:
    """Sums of a function over every row, exact, a few rows at a time: large layers are not copied whole."""
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    parts = [function(rows[i : i + step]).sum(1, dtype=np.float64) for i in range(0, len(rows), step)]
    return np.concatenate([np.zeros(0), *parts])
