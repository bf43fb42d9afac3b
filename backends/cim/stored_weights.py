"""What the stored planes of each group prove: whether columns stay in the converter's range, bounds of sums."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.arrays import lossy_columns
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.weights import read_group


@dataclass(frozen=True)
class GroupFacts:
    """Facts about one group.

    Attributes:
        lossless: derived from the stored planes.
        columns, inverted: column planes of all blocks, and how many are stored inverted.
        lossy: column planes that may leave the converter's range.
        positive, negative: absolute sums of the positive and negative weights of each output.
        reach: no sum of a lossy group is beyond that times the sum of the absolute input coefficients.
    """

    lossless: bool
    columns: int
    inverted: int
    lossy: int
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    reach: int


class GroupBounds:
    """Facts about the groups of a program, each derived once."""

    def __init__(self, program: Program, capacities: Capacities) -> None:
        self.program = program
        self.converter = Converter(capacities)
        self._facts: dict[int, GroupFacts] = {}

    def facts(self, number: int) -> GroupFacts:
        """What is known of a group.

        Raises:
            ValueError: its record is wrong.
        """
        if number not in self._facts:
            stored = read_group(self.program, self.program.groups[number])
            weights = stored.integers()
            positive = np.maximum(weights, 0).sum(axis=0, dtype=np.int64)
            multipliers = stored.multipliers
            reach = 0
            for block, rows in enumerate(stored.blocks()):
                most = 1 if multipliers is None else int(multipliers[block].max())
                reach += most * (rows.stop - rows.start) * sum(map(abs, stored.coefficients))
            lossy = lossy_columns(stored, self.converter)
            self._facts[number] = GroupFacts(
                not lossy,
                stored.flags.size,
                int(stored.flags.sum()),
                lossy,
                positive,
                positive - weights.sum(axis=0, dtype=np.int64),
                reach,
            )
        return self._facts[number]

    def sums(self, number: int, low: int, high: int, coefficients: int) -> tuple[int, int]:
        """Bounds of the sums of a group.

        Args:
            number: of the group.
            low: of the inputs.
            high: of the inputs.
            coefficients: sum of the absolute values of the coefficients of the input planes.

        Raises:
            ValueError: the group's record is wrong.
        """
        found = self.facts(number)
        if not found.lossless:
            return -found.reach * coefficients, found.reach * coefficients
        return column_bounds(found.positive, found.negative, low, high)


def column_bounds(
    positive: NDArray[np.int64], negative: NDArray[np.int64], low: int, high: int
) -> tuple[int, int]:
    """Bounds of sums of inputs `low ... high`, weights of a column adding up to `positive` and `-negative`."""
    least = positive * low - negative * high
    most = positive * high - negative * low
    return int(least.min()), int(most.max())
