"""What a simulation tells, kept for pricing: each executed instruction, the boot apart, the runs on one time line."""

from lpcompile.backends.cim import activity
from lpcompile.backends.cim.program import SKIPZ
from lpcompile.backends.cim.simulator.observer import Executed


class ActivityRecord:
    """An observer of a simulation; hand its `run` and `boot` to `energy.price`.

    Args:
        exact: count ones of inputs, which mode `exact` needs.

    Attributes:
        boot: instructions of the boot, on a time line of their own.
        run: those of device stages and samples so far, which follow one another on a time line.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.wants_ones = exact
        self.boot: list[activity.Executed] = []
        self.run: list[activity.Executed] = []
        self._into = self.run
        self._start = self._end = 0

    def begin(self, stage: int | None, sample: int) -> None:
        """A boot begins at 0, a device stage where the one before ended."""
        self._into = self.boot if stage is None else self.run
        self._start = 0 if stage is None else self._end

    def executed(self, event: Executed) -> None:
        """Keep an instruction; of the ones only their sum over planes, which is all that is priced."""
        word = event.instruction
        arrays = word.mnemonic in activity.MVMS
        end = self._start + event.end
        if self._into is self.run:
            self._end = max(self._end, end)
        self._into.append(
            activity.Executed(
                event.core,
                word,
                event.node,
                self._start + event.start,
                end,
                on=None if event.on is None else event.on.sum(axis=1, keepdims=True),
                indices=event.work.indices,
                steps=event.work.plane_steps if arrays and word.flags & SKIPZ else None,
                clipped=event.work.changed_conversions if arrays else None,
            )
        )
