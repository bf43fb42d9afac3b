"""Whether two strided pieces of a memory share a byte.

Exact where the pieces share their outer strides or one of them has no gaps; in doubt the answer is yes.
"""

import math
from dataclasses import dataclass

from lpcompile.backends.cim.simulator.operands import Operand

_ROWS_TRIED = 3


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes of an operand.

    Attributes:
        low, high: bounds, high excluded.
        dims: (count, stride) of rows of bytes, largest stride first, strides positive.
        run: bytes of a row without gaps.
    """

    low: int
    high: int
    dims: tuple[tuple[int, int], ...]
    run: int

    @property
    def dense(self) -> bool:
        """Whether it has no gaps."""
        return not self.dims


def footprint(operand: Operand) -> Footprint:
    """The bytes of an operand; windows slide over all of them."""
    dims: list[tuple[int, int]] = []
    run = operand.item_bytes
    for stride, count in sorted((abs(s), n) for n, s in operand.descriptor.dims if n > 1 and s):
        if not dims and stride <= run:
            run = stride * (count - 1) + run
        elif dims and stride == dims[-1][0] * dims[-1][1]:
            dims[-1] = (count * dims[-1][0], dims[-1][1])
        else:
            dims.append((count, stride))
    return Footprint(operand.low, operand.high, tuple(reversed(dims)), run)


def overlap(a: Footprint, b: Footprint) -> bool:
    """Whether two footprints in one memory share a byte, or might."""
    if a.low >= b.high or b.low >= a.high:
        return False
    strides = [s for _, s in (*a.dims, *b.dims)]
    if strides:
        pitch = math.gcd(*strides)
        # all rows of a piece begin at one residue of the common pitch
        if a.run <= pitch and b.run <= pitch:
            shift = (b.low - a.low) % pitch
            if shift >= a.run and pitch - shift >= b.run:
                return False
    return _meet(a.dims, a.run, b.dims, b.run, b.low - a.low)


def _span(dims: tuple[tuple[int, int], ...], run: int) -> int:
    return run + sum((n - 1) * s for n, s in dims)


def _meet(
    a: tuple[tuple[int, int], ...], run_a: int, b: tuple[tuple[int, int], ...], run_b: int, shift: int
) -> bool:
    """Whether rows `a` from 0 and rows `b` from `shift` share a byte, or might."""
    if shift >= _span(a, run_a) or -shift >= _span(b, run_b):
        return False
    if not a and not b:
        return True
    if not a or (b and b[0][1] > a[0][1]):
        a, run_a, b, run_b, shift = b, run_b, a, run_a, -shift
    (count, stride), inner = a[0], a[1:]
    if b and b[0][1] == stride:
        # row i of a and row j of b lie shift + (j - i) * stride apart
        differences, other = range(-(count - 1), b[0][0]), b[1:]
    else:
        differences, other = range(-(count - 1), 1), b
    reach_a, reach_b = _span(inner, run_a), _span(other, run_b)
    # apart by d: they meet where -reach_b < d < reach_a
    first = max(differences.start, -(-(1 - reach_b - shift) // stride))
    last = min(differences.stop - 1, (reach_a - 1 - shift) // stride)
    if last - first >= _ROWS_TRIED:
        return True
    return any(_meet(inner, run_a, other, run_b, shift + d * stride) for d in range(first, last + 1))
