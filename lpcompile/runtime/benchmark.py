"""Time a compiled model against the float one: interleaved runs, and what counts as slower.

Runs come in pairs, the order within a pair changing from one to the next, so that whatever else the machine does meets
both models alike. The ratio of a pair is compiled / float. The compiled model is slower where three pairs in four say
so (the lower quartile of the ratios is above 1) and the median ratio is above NOISE; a first such finding is measured
again, and both must say it.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.analysis.inputs import Feeds
from lpcompile.runtime.session import Session

PAIRS = 31
WARM_UP = 3
NOISE = 1.03


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
        return self.ratio > NOISE and self.quartiles[0] > 1


def timed(reference: Session, compiled: Session, feeds: Feeds) -> Timing:
    """Time two models; where the compiled one looks slower, the better of two measurements."""
    for _ in range(WARM_UP):
        reference.run(feeds)
        compiled.run(feeds)
    first = _measured(reference, compiled, feeds)
    if not first.slower:
        return first
    second = _measured(reference, compiled, feeds)
    return min(first, second, key=lambda t: (t.slower, t.ratio))


def _measured(reference: Session, compiled: Session, feeds: Feeds) -> Timing:
    pairs = []
    for i in range(PAIRS):
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
