"""What a simulation tells while it runs."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Instruction, Queue
from lpcompile.backends.cim.simulator.timing import Work


@dataclass(frozen=True, slots=True)
class Executed:
    """One executed instruction.

    Attributes:
        core, queue: that executed it.
        instruction: the word.
        node: name of the ONNX node that it serves, "" for none.
        start, end: cycles since the start of its boot or device stage; BAR has no length.
        work: what it did.
        on: of MVM and MVMP where asked for: int64 (rows, input planes), in how many positions plane i of row r is one.
    """

    core: int
    queue: Queue
    instruction: Instruction
    node: str
    start: int
    end: int
    work: Work
    on: NDArray[np.int64] | None = None


class Observer(Protocol):
    """Is told of every executed instruction, in the order of their starts.

    Attributes:
        wants_ones: whether `Executed.on` is to be counted, which costs time.
    """

    wants_ones: bool

    def begin(self, stage: int | None, sample: int) -> None:
        """A boot (stage None, sample -1) or a device stage begins; cycles count from 0 again."""
        ...

    def executed(self, event: Executed) -> None:
        """An instruction was executed."""
        ...
