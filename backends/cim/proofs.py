"""What holds of a program whatever the data: no deadlock, no race, no overflow, weights in place, true lossless flags.

Streams hold no data-dependent branch, so the unrolled streams are all there is to look at.  Whether the shapes of an
instruction's operands agree is not looked at here: the simulator refuses those that do not.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lpcompile.backends.cim.macro_contents import MacroContents
from lpcompile.backends.cim.program import DeviceStage, Program
from lpcompile.backends.cim.simulator.accesses import accesses, operands_of
from lpcompile.backends.cim.simulator.capacities import Capacities, Limits
from lpcompile.backends.cim.simulator.operands import Operands
from lpcompile.backends.cim.simulator.ordering import Order, order_of
from lpcompile.backends.cim.simulator.races import races
from lpcompile.backends.cim.simulator.streams import Operation, Schedule, unroll
from lpcompile.backends.cim.stored_weights import GroupBounds
from lpcompile.backends.cim.sum_bounds import SumBounds
from lpcompile.errors import ProgramError

KINDS = ("streams", "events", "races", "sums", "groups", "weights")
_MOST_RACES = 1000  # of a stage, that are counted
_WHAT = {
    "streams": "streams end, the descriptors and groups they name are there, every operand lies in its memory",
    "events": "no deadlock, and all events and messages used up",
    "races": "no unordered accesses to the same bytes",
    "sums": "no accumulator leaves int32, no requantisation 2^62",
    "groups": "lossless flags agree with the stored planes",
    "weights": "every MVM finds its group in the macros",
}


@dataclass(frozen=True)
class Proofs:
    """What was looked at, and what does not hold.

    Attributes:
        operations: instructions of boot and device stages, REPEATs unrolled.
        accesses: reads and writes of memory.
        sums: int32 results that were bounded.
        largest_sum: the largest absolute bound of one.
        requantisations: VRQ and VADDQ instructions.
        requantisations_in_float: those of them whose `x * m + b` stays below 2^52.
        groups, lossless_groups: in the table; those whose columns all stay in the converter's range.
        columns, inverted_columns, lossy_columns: column planes of the groups' blocks; those stored inverted; those that
            may leave the converter's range.
        counts: violations by kind, one of `KINDS`.
        first: the first violation of each kind that has one.
    """

    operations: int
    accesses: int
    sums: int
    largest_sum: int
    requantisations: int
    requantisations_in_float: int
    groups: int
    lossless_groups: int
    columns: int
    inverted_columns: int
    lossy_columns: int
    counts: dict[str, int]
    first: dict[str, str]

    @property
    def hold(self) -> bool:
        """Whether nothing is violated."""
        return not self.first

    def document(self) -> dict[str, Any]:
        """The proofs for a report."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**found, "hold": self.hold}

    def __str__(self) -> str:
        lines = [
            f"{self.operations} instructions, {self.accesses} accesses, {self.sums} sums up to {self.largest_sum}, "
            f"{self.requantisations} requantisations ({self.requantisations_in_float} below 2^52), "
            f"{self.lossless_groups} of {self.groups} groups lossless, "
            f"{self.inverted_columns} of {self.columns} columns inverted"
        ]
        for kind in KINDS:
            violated = (
                f"VIOLATED {self.counts[kind]} times, first: {self.first[kind]}"
                if kind in self.first
                else "holds"
            )
            lines.append(f"{_WHAT[kind]}: {violated}")
        return "\n".join(lines)


def prove(program: Program, capacities: Capacities, limits: Limits | None = None) -> Proofs:
    """Try to prove a program.

    Args:
        program: not trusted; whatever is wrong with it becomes a violation.
        capacities: of the machine.
        limits: bounds of the unrolled streams.
    """
    return _Prover(program, capacities, limits or Limits()).prove()


class _Prover:
    def __init__(self, program: Program, capacities: Capacities, limits: Limits) -> None:
        self.program, self.limits = program, limits
        self.operands = Operands(program, capacities, limits)
        self.groups = GroupBounds(program, capacities)
        self.capacities = capacities
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.operations = self.accesses = 0
        self.sums: SumBounds | None = None
        self.contents = MacroContents(self.operands, capacities)

    def prove(self) -> Proofs:
        lossless = columns = inverted = lossy = 0
        for number, group in enumerate(self.program.groups):
            try:
                facts = self.groups.facts(number)
            except ValueError as error:
                self._violated("streams", f"group {number} {error}")
                continue
            lossless += facts.lossless
            columns, inverted = columns + facts.columns, inverted + facts.inverted
            lossy += facts.lossy
            if facts.lossless != group.lossless:
                says = "lossless" if group.lossless else "lossy"
                self._violated("groups", f"group {number} is marked {says}, its planes say otherwise")
        try:
            self.sums = SumBounds(
                self.program,
                self.capacities,
                self.operands,
                self.groups,
                lambda o, m: self._violated("sums", f"{o}: {m}"),
            )
            self._stage(None)
            for stage in self.program.stages:
                if isinstance(stage, DeviceStage):
                    for port in stage.inputs:
                        self.sums.port(port)
                    self._stage(stage.index)
            self._missing(self.contents.finish())
        except (ProgramError, ValueError, IndexError) as error:
            self._violated("streams", str(error))
        sums = self.sums
        return Proofs(
            self.operations,
            self.accesses,
            sums.sums if sums else 0,
            sums.largest_sum if sums else 0,
            sums.requantisations if sums else 0,
            sums.requantisations_in_float if sums else 0,
            len(self.program.groups),
            lossless,
            columns,
            inverted,
            lossy,
            dict(self.counts),
            self.first,
        )

    def _violated(self, kind: str, message: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, message)

    def _stage(self, stage: int | None) -> None:
        schedule = unroll(self.program, stage, self.limits)
        self.operations += schedule.count
        order = order_of(schedule)
        self._events(schedule, order)
        found = accesses(schedule, self.operands)
        self.accesses += len(found)
        for race in itertools.islice(races(schedule, found, order), _MOST_RACES):
            self._violated("races", str(race))
        if self.sums is not None:
            if stage is not None:  # a later sample finds what an earlier one left
                self._forget(self.sums, schedule)
            self.contents.enter(stage)
            for lane, position in order.sequence:
                self._follow(self.sums, schedule.lanes[lane][position])
            self._missing(self.contents.leave())

    def _missing(self, found: Iterable[tuple[Operation, str]]) -> None:
        for operation, message in found:
            self._violated("weights", f"{operation}: {message}")

    def _forget(self, sums: SumBounds, schedule: Schedule) -> None:
        seen: set[tuple[int, int]] = set()
        for operation in (o for lane in schedule.lanes for o in lane):
            for operand, writes in operands_of(operation, self.operands):
                key = (operation.core, id(operand))
                if writes and key not in seen:
                    seen.add(key)
                    sums.memory.forget(operand, operation.core)

    def _follow(self, sums: SumBounds, operation: Operation) -> None:
        if wrong := self.contents.follow(operation):
            self._violated("weights", f"{operation}: {wrong}")
        try:
            sums.follow(operation)
        except ValueError as error:
            raise operation.fault(str(error)) from None

    def _events(self, schedule: Schedule, order: Order) -> None:
        for operation in order.stuck:
            self._violated("events", f"{operation} waits for ever")
        for core, event, left in order.unbalanced:
            self._violated("events", f"{schedule.name} ends with event {event} of core {core} at {left}")
        for sender, receiver, tag in order.unreceived:
            self._violated(
                "events", f"{schedule.name}: nobody receives tag {tag} from core {sender} to {receiver}"
            )
        for core, event in order.contended:
            self._violated(
                "events", f"{schedule.name}: WAITs of event {event} of core {core} compete for signals"
            )
