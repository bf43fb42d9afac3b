"""Output noise of ranges, measured: one session in which every activation is rounded over ranges that are fed."""

from collections.abc import Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Samples, read_logits
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.planned_groups import PlannedGroup
from lpcompile.analysis.range_search import Plans
from lpcompile.analysis.rounded_activations import ranges_of, with_ranges_fed
from lpcompile.analysis.scores import F64
from lpcompile.autodiff.losses import float_outputs
from lpcompile.ir.graph import LpGraph


class RangeNoise:
    """Noise power over signal power of the outputs, by ranges, on each half of the samples.

    Args:
        graph: the float graph, whose outputs others are compared with.
        stored: the graph whose activations are rounded; its weights may be rounded, too.
        groups: that are rounded, at their sources.
        observe: opens a graph.
        samples: calls; every other one is of the second half.
        loss: "logits" measures what the last softmax reads, where every output has one; else outputs are measured.

    Attributes:
        rows: samples of each half, as indices in the order of the calls.
    """

    def __init__(
        self,
        graph: LpGraph,
        stored: LpGraph,
        groups: Sequence[PlannedGroup],
        observe: ObserveGraph,
        samples: Samples,
        loss: str,
    ) -> None:
        outputs = float_outputs(graph)
        logits = read_logits(outputs) if loss == "logits" else None
        names = logits or [v.name for v in outputs]
        run_floats = observe(graph, names)
        self._judges = [
            Judge(
                run_floats,
                samples.calls[half::2],
                names,
                per_sample=samples.per_sample,
                logits=logits is not None,
            )
            for half in (0, 1)
        ]
        changed, self._fed = with_ranges_fed(stored, [g.sources for g in groups])
        self._run = observe(changed, names)
        of_sample = np.repeat(np.arange(len(samples.calls)), samples.sizes)
        self.rows = (np.flatnonzero(of_sample % 2 == 0), np.flatnonzero(of_sample % 2 == 1))

    def of_half(self, half: int, plans: Plans) -> F64:
        """Of each sample of the half 0 or 1."""
        ranges = ranges_of(plans)
        return self._judges[half].noise_terms(lambda feeds: self._run({**feeds, self._fed: ranges}))

    def of_all(self, plans: Plans) -> F64:
        """Of each sample, in the order of the calls."""
        found = np.empty(sum(map(len, self.rows)))
        for half in (0, 1):
            found[self.rows[half]] = self.of_half(half, plans)
        return found
