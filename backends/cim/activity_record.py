"""What a simulation tells, kept for pricing: each executed instruction on one time line."""

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
