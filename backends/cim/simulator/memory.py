"""The memories of the simulated machine, as arrays of bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Program, Space
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.operands import NUMPY, Operand
from lpcompile.errors import ProgramError


class Memory:
    """DRAM, global buffer, and a local buffer for each core; all zero but for the constants of the program.

    Raises:
        ProgramError: the program needs more than there is.
    """

    def __init__(self, program: Program, capacities: Capacities) -> None:
        if not 0 <= program.dram_bytes <= capacities.dram_bytes:
            raise ProgramError(
                f"the DRAM image has {program.dram_bytes} bytes, the machine allows {capacities.dram_bytes}"
            )
        if len(program.consts) > program.dram_bytes:
            raise ProgramError("the constants are larger than the DRAM image")
        if len(program.cores) > capacities.cores:
            raise ProgramError(
                f"the program uses {len(program.cores)} cores, the machine has {capacities.cores}"
            )
        self.dram = np.zeros(program.dram_bytes, np.uint8)
        self.dram[: len(program.consts)] = np.frombuffer(program.consts, np.uint8)
        self.gb = np.zeros(capacities.gb_bytes, np.uint8)
        self.lb = [np.zeros(capacities.lb_bytes, np.uint8) for _ in program.cores]

    def view(self, operand: Operand, core: int) -> NDArray[Any]:
        """The elements of a checked operand, in place."""
        space = operand.descriptor.space
        array = self.dram if space == Space.DRAM else self.gb if space == Space.GB else self.lb[core]
        return np.ndarray(
            operand.counts,
            NUMPY[operand.descriptor.dtype],
            buffer=array.data,
            offset=operand.base,
            strides=operand.strides,
        )
