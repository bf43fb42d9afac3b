"""Cycles of a machine description as the simulator asks for them."""

from lpcompile.backends.cim.latency import cycles
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import SKIPZ, Instruction, Program
from lpcompile.backends.cim.simulator.timing import Work

_MVMS = ("MVM", "MVMP")
_MOST_KNOWN = 1 << 16


class MachineTiming:
    """Cycles as a machine description gives them, each question asked once.

    Args:
        machine: the description.
    """

    def __init__(self, machine: MachineDescription) -> None:
        self.machine = machine
        self._known: dict[tuple[int, Instruction, int, int | None], int] = {}

    def cycles(self, core: int, instruction: Instruction, program: Program, work: Work) -> int:
        """Cycles from start to end."""
        steps = None
        if instruction.mnemonic in _MVMS and instruction.flags & SKIPZ:
            steps = -(-work.plane_steps // self.machine.macro.input_bits_per_cycle)
        key = (core, instruction, work.group, steps)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = cycles(self.machine, program, instruction, core, work.indices, steps)
        return found
