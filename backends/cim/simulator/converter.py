"""What a converter reads for a number of ones in a column. [npp E5]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.simulator.capacities import TRANSFERS, Capacities


class Converter:
    """T(P) of a machine.

    `clip` saturates at L = 2^bits - 1.  `scale` spreads the L steps over the N rows of a block where N > L:
    `rint(rint(P * L / N) * N / L)`, half to even, for every P; where N <= L it is exact.

    Attributes:
        most: L; None where the sum is digital and exact.
        transfer: `clip` or `scale`.
    """

    def __init__(self, capacities: Capacities) -> None:
        if capacities.transfer not in TRANSFERS:
            raise ValueError(f"no transfer '{capacities.transfer}', only {' and '.join(TRANSFERS)}")
        self.most = None if capacities.adc_bits is None else (1 << capacities.adc_bits) - 1
        self.transfer = capacities.transfer

    def exact(self, block_rows: int, most_ones: int) -> bool:
        """Whether T(P) = P for every count that a column of `most_ones` stored ones can give."""
        if self.most is None or block_rows <= self.most:
            return True
        return most_ones <= self.most if self.transfer == "clip" else most_ones == 0

    def convert(self, counts: NDArray[Any], block_rows: int) -> int:
        """Replace counts by what is read, in place.

        Args:
            counts: float32 or float64 whole numbers, 0 ... block_rows.
            block_rows: rows of the block.

        Returns:
            How many counts read as something else.
        """
        if self.most is None or block_rows <= self.most:
            return 0
        if self.transfer == "clip":
            changed = int(np.count_nonzero(counts > self.most))
            if changed:
                np.minimum(counts, self.most, out=counts)
            return changed
        table = self.table(block_rows)
        read = table[counts.astype(np.intp)]
        changed = int(np.count_nonzero(read != counts))
        counts[...] = read
        return changed

    def table(self, block_rows: int) -> NDArray[np.int64]:
        """T(0) ... T(block_rows)."""
        counts = np.arange(block_rows + 1, dtype=np.int64)
        if self.most is None or block_rows <= self.most:
            return counts
        if self.transfer == "clip":
            return np.minimum(counts, self.most)
        codes = _divide_half_even(counts * self.most, block_rows)
        return _divide_half_even(codes * block_rows, self.most)


def _divide_half_even(numerator: NDArray[np.int64], denominator: int) -> NDArray[np.int64]:
    """Integers: the rounding of the definition, without the error of a floating-point quotient."""
    quotient, rest = np.divmod(numerator, denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
    return np.asarray(quotient + up, np.int64)
