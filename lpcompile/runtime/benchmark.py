"""Time a compiled model against the float one: interleaved runs, and what counts as slower.

Runs come in pairs, the order within a pair changing from one to the next, so that whatever else the machine does meets
both models alike. The ratio of a pair is compiled / float. The compiled model is slower where three pairs in four say
so (the lower quartile of the ratios is above 1), the median ratio is above NOISE, and the medians are further apart
than NOISE_MS, about what a call costs by itself. Where memory lies makes a difference too: a first such finding is
measured again with both models loaded anew, and all of MEASUREMENTS must say it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpcompile.analysis.inputs import Feeds
from lpcompile.progress import Progress, no_progress
from lpcompile.runtime.session import Session

PAIRS = 31
WARM_UP = 3
MEASUREMENTS = 3
NOISE = 1.03
NOISE_MS = 0.01


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians of paired runs.

    Attributes:
        float_ms, compiled_ms: of one call, wall clock.
        ratio: median of compiled / float over pairs.
        quartiles: lower and upper quartile of these ratios.
    """

    float_ms: float
    compiled_ms: float
    ratio: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Timing":
        """From pairs of (float, compiled) in milliseconds."""
        ratios = [compiled / as_float for as_float, compiled in pairs]
        lower, _, upper = statistics.quantiles(ratios, n=4)
        return cls(
            statistics.median(p[0] for p in pairs),
            statistics.median(p[1] for p in pairs),
            statistics.median(ratios),
            (lower, upper),
        )

    @property
    def slower(self) -> bool:
        """Whether the compiled model is slower beyond noise."""
        apart_ms = self.compiled_ms - self.float_ms
        return self.ratio > NOISE and self.quartiles[0] > 1 and apart_ms > NOISE_MS


def timed(
    reference: Callable[[], Session],
    compiled: Callable[[], Session],
    feeds: Feeds,
    progress: Progress = no_progress,
) -> Timing:
    """Time two models; where the compiled one looks slower, again, and then the best of the measurements.

    Args:
        reference: loads the float model.
        compiled: loads the compiled model.
        feeds: of every call.
        progress: called as progress(what, done, total).
    """
    found = []
    for _ in range(MEASUREMENTS):
        found.append(_measured(reference(), compiled(), feeds, progress))
        if not found[-1].slower:
            break
    return min(found, key=lambda t: (t.slower, t.ratio))


def _measured(reference: Session, compiled: Session, feeds: Feeds, progress: Progress) -> Timing:
    pairs = []
    for _ in range(WARM_UP):
        reference.run(feeds)
        compiled.run(feeds)
    for i in range(PAIRS):
        progress("timing both models", i, PAIRS)
        if i % 2:
            compiled_ms, float_ms = _run_ms(compiled, feeds), _run_ms(reference, feeds)
        else:
            float_ms, compiled_ms = _run_ms(reference, feeds), _run_ms(compiled, feeds)
        pairs.append((float_ms, compiled_ms))
    return Timing.of(pairs)


def _run_ms(session: Session, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(feeds)
    return 1e3 * (time.perf_counter() - start)
