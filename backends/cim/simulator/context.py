"""What the units of the simulated machine share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities, Limits
from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.memory import Memory
from lpcompile.backends.cim.simulator.operands import Operand, Operands
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.windows import WindowShape

Effect = Callable[[], Work]


@dataclass
class Counters:
    """What a simulation counts.

    Attributes:
        instructions: executed, BAR, SIG and WAIT included.
        macs: of MVM instructions, of the whole run.
        hp_macs: of VMM and VDW.
        mvms: MVM and MVMP instructions.
        explicit_mvms: those of them that went plane by plane.
        changed_conversions: conversions that read something else than the count of ones.
    """

    instructions: int = 0
    macs: int = 0
    hp_macs: int = 0
    mvms: int = 0
    explicit_mvms: int = 0
    changed_conversions: int = 0


@dataclass
class Context:
    """State and settings of one simulated machine.

    Attributes:
        planes: every MVM goes plane by plane.
        ones: of the last MVM, where `wants_ones`.
    """

    program: Program
    capacities: Capacities
    limits: Limits
    operands: Operands
    memory: Memory
    converter: Converter
    planes: bool = False
    wants_ones: bool = False
    counters: Counters = field(default_factory=Counters)
    ones: NDArray[np.int64] | None = None

    def read(self, operation: Operation, number: int) -> tuple[Operand, NDArray[Any]]:
        """An operand that is read, and its elements in place."""
        operand = self.operands.resolve(operation, number)
        return operand, self.memory.view(operand, operation.core)

    def write(self, operation: Operation, number: int) -> tuple[Operand, NDArray[Any]]:
        """An operand that is written, and its elements in place."""
        operand = self.operands.resolve(operation, number, writes=True)
        return operand, self.memory.view(operand, operation.core)

    def window_shape(self, operation: Operation, operand: Operand) -> WindowShape:
        """Positions and rows of a source.

        Raises:
            ProgramError: the window does not fit, or expands beyond the limit.
        """
        try:
            shape = WindowShape(operand.descriptor)
        except ValueError as error:
            raise operation.fault(f"the source {error}") from None
        if shape.elements > self.limits.elements:
            raise operation.fault(
                f"the windows hold {shape.elements} elements, more than the limit of {self.limits.elements}"
            )
        return shape
