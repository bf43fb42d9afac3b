"""Which groups lie in the macros while a program runs: every MVM finds the group that it names.

WPROG and MVM of a core share a queue, so what a macro holds depends on no time.  Samples run a program's device stages
again, one stage for all samples or all stages for one: what a stage found of earlier ones has to be there once more.
"""

from collections import defaultdict
from collections.abc import Iterator

from lpcompile.backends.cim.program import Group
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.operands import Operands
from lpcompile.backends.cim.simulator.streams import Operation

BOOT = -1
Found = dict[tuple[int, int], Operation]  # (core, group) -> the first MVM that found it


class MacroContents:
    """Follows WPROG, MVM and MVMP.

    Args:
        operands: resolves the groups of operations.
        capacities: macros and pages of a core.
    """

    def __init__(self, operands: Operands, capacities: Capacities) -> None:
        self.operands, self.capacities = operands, capacities
        self._stage = BOOT
        self._holds: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        self._whole: defaultdict[int, dict[int, int]] = defaultdict(
            dict
        )  # core -> group -> stage of its WPROG
        self._earlier: Found = {}
        self._of_boot: Found = {}

    def enter(self, stage: int | None) -> None:
        """The boot (None) or a device stage begins."""
        self._stage = BOOT if stage is None else stage
        self._earlier = {}

    def follow(self, operation: Operation) -> str:
        """What is wrong with an operation; empty where nothing is.

        Raises:
            ProgramError: there is no such group.
        """
        name = operation.instruction.mnemonic
        if name not in ("WPROG", "MVM", "MVMP"):
            return ""
        number, group = self.operands.group(operation)
        if name == "WPROG":
            return self._program(operation, number, group)
        since = self._whole[operation.core].get(number)
        if since is None:
            return f"group {number} is not in the macros"
        if since != self._stage:
            self._earlier.setdefault((operation.core, number), operation)
            if since == BOOT:
                self._of_boot.setdefault((operation.core, number), operation)
        return ""

    def leave(self) -> Iterator[tuple[Operation, str]]:
        """The stage ends: MVMs whose group the stage writes over, so that its next sample misses it."""
        yield from self._missing(self._earlier)

    def finish(self) -> Iterator[tuple[Operation, str]]:
        """The last stage ended: MVMs whose group was written at boot and is not there for the next sample."""
        yield from self._missing(self._of_boot)

    def _missing(self, found: Found) -> Iterator[tuple[Operation, str]]:
        for (core, number), operation in found.items():
            if number not in self._whole[core]:
                yield operation, f"group {number} is not in the macros for the next sample"

    def _program(self, operation: Operation, number: int, group: Group) -> str:
        macros = group.across * group.down
        if min(group.across, group.down, group.pages) < 1 or min(group.first_macro, group.page0) < 0:
            return f"group {number} has no place"
        if (
            group.first_macro + macros > self.capacities.macros
            or group.page0 + group.pages > self.capacities.pages
        ):
            return f"group {number} leaves the macros"
        if operation.instruction.b != group.page0:
            return f"group {number} starts at page {group.page0}, not {operation.instruction.b}"
        holds, whole = self._holds[operation.core], self._whole[operation.core]
        for macro in range(group.first_macro, group.first_macro + macros):
            for page in range(group.page0, group.page0 + group.pages):
                whole.pop(holds.get((macro, page), -1), None)
                holds[macro, page] = number
        whole[number] = self._stage
        return ""
