"""Which of several roundings a network tolerates together, by the noise of its outputs on deciding calls.

All of them at once first, which is one measurement where all is well. Else each alone, and those that cost most are
left out, the cheapest last, until what is left keeps the bound as a whole.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.measured import Judge
from lpcompile.autodiff.losses import float_outputs
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext

CALLS = 4


@dataclass(frozen=True)
class Tolerated:
    """What is kept, and why.

    Attributes:
        kept: numbers of the roundings.
        reasons: of every rounding, in the user's words.
    """

    kept: Collection[int]
    reasons: Sequence[str]


class Noise:
    """Noise of the outputs of changed copies of a float graph, where there are samples and outputs to measure by."""

    def __init__(self, graph: LpGraph, ctx: PassContext) -> None:
        outputs = [v.name for v in float_outputs(graph)]
        self._observe = ctx.observe
        self._judge: Judge | None = None
        if ctx.calibration is not None and ctx.observe is not None and outputs:
            calls = ctx.calibration.deciding[:CALLS]
            self._judge = Judge(ctx.observe(graph, outputs), calls, outputs, per_sample=False)

    @property
    def measures(self) -> bool:
        """Whether there are samples and outputs."""
        return self._judge is not None

    def db(self, changed: LpGraph) -> float:
        """Output SQNR of a changed copy."""
        assert self._judge is not None
        assert self._observe is not None
        found = self._judge.measure(self._observe(changed, self._judge.outputs)).noise.mean[0]
        return float(-10 * np.log10(max(float(found), 1e-30)))


def tolerated(
    count: int, db: Callable[[Sequence[int]], float] | None, least_db: float, what: str
) -> Tolerated:
    """The roundings that are kept.

    Args:
        count: of roundings.
        db: output SQNR with these of them in place, or None where nothing can be measured: all are kept.
        least_db: what all that are kept must leave together.
        what: the roundings, as a reason names them: "in int8".
    """
    everything = range(count)
    if db is None:
        return Tolerated(everything, [f"{what}; no samples to measure its cost with"] * count)
    together = db(everything) if count else np.inf
    if together >= least_db:
        return Tolerated(
            everything, [f"{what}, which leaves {together:.1f} dB of the outputs, all together"] * count
        )
    alone = [db([i]) for i in everything] if count > 1 else [together]
    kept = sorted(everything, key=lambda i: -alone[i])
    while kept and db(kept) < least_db:
        kept.pop()
    return Tolerated(
        kept, [f"{what} it alone would leave {alone[i]:.1f} dB of the outputs" for i in everything]
    )
