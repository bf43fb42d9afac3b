"""Output noise of the whole rounded network under a plan, on the deciding calls; each plan is run once."""

from lpcompile.analysis.judged import Judged
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_bytes, rounded_network
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.memory import collect_replaced
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan


class NetworkNoise:
    """Noise over signal of what is `Judged`.

    Args:
        graph: the float graph; it may get other plans meanwhile, no other weights.
        ctx: with samples.
        most: calls that are run, of those that decide; None runs all.
    """

    def __init__(self, graph: LpGraph, ctx: PassContext, most: int | None = None) -> None:
        self._graph, self._ctx, self._judged, self._most = graph, ctx, Judged.of(graph), most
        self._judge: Judge | None = None
        self._known: list[tuple[QuantPlan, F64]] = []  # the last two

    @property
    def is_known(self) -> bool:
        """Whether there is anything to measure: float outputs, samples, a runtime."""
        return (
            bool(self._judged.names) and self._ctx.calibration is not None and self._ctx.observe is not None
        )

    def of(self, plan: QuantPlan) -> F64:
        """One figure a call."""
        for known, found in self._known:
            if known is plan:
                return found
        observe, calibration, names = self._ctx.observe, self._ctx.calibration, self._judged.names
        assert observe is not None
        assert calibration is not None
        if self._judge is None:
            run = observe(self._graph, names)
            calls = calibration.deciding[: self._most]
            self._judge = Judge(run, calls, names, per_sample=False, logits=self._judged.logits)
        found = self._judge.noise_terms(observe(rounded_network(self._graph, plan), names))
        collect_replaced(rounded_bytes(plan))
        self._known = [*self._known[-1:], (plan, found)]
        return found
