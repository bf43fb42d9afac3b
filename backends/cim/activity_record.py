"""What a simulation tells, kept for pricing: each executed instruction on one time line."""

from dataclasses import replace

from lpcompile.backends.cim import activity
from lpcompile.backends.cim.simulator.observer import Executed

_SKIPZ = 2


class ActivityRecord:
    """An observer of a simulation; hand its `executed` to `energy.price`.

    Args:
        exact: count ones of inputs, which mode `exact` needs.

    Attributes:
        instructions: executed so far; runs follow one another on the time line.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.wants_ones = exact
        self.instructions: list[activity.Executed] = []
        self._start = self._end = 0

    def begin(self, stage: int | None, sample: int) -> None:
        """A boot or a device stage begins where the one before ended."""
        self._start = self._end

    def executed(self, event: Executed) -> None:
        """Keep an instruction; of the ones only their sum over planes, which is all that is priced."""
        word = event.instruction
        arrays = word.mnemonic in activity.MVMS
        self._end = max(self._end, self._start + event.end)
        self.instructions.append(
            activity.Executed(
                event.core,
                word,
                event.node,
                self._start + event.start,
                self._start + event.end,
                on=None if event.on is None else event.on.sum(axis=1, keepdims=True),
                indices=event.work.indices,
                steps=event.work.plane_steps if arrays and word.flags & _SKIPZ else None,
                clipped=event.work.changed_conversions if arrays else None,
            )
        )

    def apart(self, boot_cycles: int) -> tuple[list[activity.Executed], list[activity.Executed]]:
        """The WPROGs of the boot, and everything else on a time line that starts after it.

        Args:
            boot_cycles: of the boot, 0 where it was not recorded.
        """
        boot, run = [], []
        for e in self.instructions:
            if e.end_cycle <= boot_cycles and e.instruction.mnemonic == "WPROG":
                boot.append(e)
            else:
                start, end = (max(0, cycle - boot_cycles) for cycle in (e.start_cycle, e.end_cycle))
                run.append(replace(e, start_cycle=start, end_cycle=end))
        return boot, run
