"""How far a compilation has come, for whoever waits for it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # of loops that may take seconds: (what, done, total)
T = TypeVar("T")
LEAST_SECONDS = 0.05  # of a loop before its end can be estimated


@dataclass(frozen=True, slots=True)
class Step:
    """Where a compilation stands: what `progress=` functions are called with.

    They are called from the thread that compiles, at the start of each pass and as loops go on, perhaps hundreds of
    times a second. What they raise ends the compilation, and nothing is written.

    Attributes:
        pass_name: of the pass at work, as "quantize-weights"; "" before the first and after the last.
        what: the loop in words, as "rounding weights"; "" at the start of a pass.
        done: rounds of the loop that are over.
        total: all its rounds; 0 at the start of a pass.
        seconds: since the loop began.
    """

    pass_name: str
    what: str
    done: int
    total: int
    seconds: float

    @property
    def fraction(self) -> float:
        """Share of the loop that is over, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Of the loop, were all its rounds alike; None as long as that cannot be told."""
        if self.done <= 0 or self.total <= 0 or self.seconds < LEAST_SECONDS:
            return None
        return self.seconds * max(0, self.total - self.done) / self.done


Tell = Callable[[Step], object]


class Steps:
    """Turns what passes report into steps; what the listener raised once it raises again, so that nothing hides it."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._pass = ""
        self._what = ""
        self._done = 0
        self._since = 0.0
        self._raised: BaseException | None = None

    def entering(self, name: str) -> None:
        """A pass begins; "" ends the last one."""
        self._pass, self._what = name, ""
        if name:
            self._told(Step(name, "", 0, 0, 0.0))

    def __call__(self, what: str, done: int, total: int) -> None:
        """A loop goes on."""
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._what, self._since = what, now
        self._done = done
        self._told(Step(self._pass, what, done, total, now - self._since))

    def over(self, what: str, items: Sequence[T]) -> Iterator[T]:
        """The items of a loop, each told when it is over."""
        for done, item in enumerate(items):
            yield item
            self(what, done + 1, len(items))

    def check(self) -> None:
        """Raise what the listener raised, if it did: somebody may have taken it for an error of a pass."""
        if self._raised is not None:
            raise self._raised

    def _told(self, step: Step) -> None:
        self.check()
        if self._tell is None:
            return
        try:
            self._tell(step)
        except BaseException as error:
            self._raised = error
            raise


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""
