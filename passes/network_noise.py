"""Output noise of the whole rounded network under a plan, on the deciding calls; each plan is run once."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.gradients import read_logits
from lpcompile.analysis.measured import Judge, noise_of_each
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan


class NetworkNoise:
    """Noise over signal of float outputs, and of the logits where every output is the softmax of some.

    Args:
        graph: the float graph; it may get other plans meanwhile, no other weights.
        ctx: with samples.
    """

    def __init__(self, graph: LpGraph, ctx: PassContext) -> None:
        self._graph, self._ctx = graph, ctx
        outputs = float_outputs(graph)
        self._outputs = [v.name for v in outputs]
        self._logits = read_logits(outputs)
        self._judges: list[Judge] = []
        self._known: list[tuple[QuantPlan, list[F64]]] = []  # the last two

    @property
    def is_known(self) -> bool:
        """Whether there is anything to measure: float outputs, samples, a runtime."""
        return bool(self._outputs) and self._ctx.calibration is not None and self._ctx.observe is not None

    def of_outputs(self, plan: QuantPlan) -> F64:
        """One figure a call."""
        return self._of(plan)[0]

    def of_logits(self, plan: QuantPlan) -> F64:
        """One figure a call, of the logits less their mean; of outputs that are no softmax as `of_outputs`."""
        return self._of(plan)[-1]

    def _of(self, plan: QuantPlan) -> list[F64]:
        for known, found in self._known:
            if known is plan:
                return found
        observe = self._ctx.observe
        assert observe is not None
        if not self._judges:
            self._judges = self._opened()
        run = observe(rounded_network(self._graph, plan), self._names)
        found = noise_of_each(self._judges, run)
        self._known = [*self._known[-1:], (plan, found)]
        return found

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys((*self._outputs, *(self._logits or ()))))

    def _opened(self) -> list[Judge]:
        observe, calibration = self._ctx.observe, self._ctx.calibration
        assert observe is not None
        assert calibration is not None
        calls, run = calibration.deciding, observe(self._graph, self._names)
        found = [run(call) for call in calls]

        def judge(names: Sequence[str], *, logits: bool) -> Judge:
            given = iter(found)

            def next_one(_: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
                values = next(given)
                return {name: values[name] for name in names}

            return Judge(next_one, calls, names, per_sample=False, logits=logits)

        judges = [judge(self._outputs, logits=False)]
        return judges if self._logits is None else [*judges, judge(self._logits, logits=True)]
