"""Which activations cost the outputs most, were no other rounded: found by measuring halves of sets.

Noise adds up, so that a set costs what its members cost together, and none of them more. The set that costs most is
halved first; a single tensor that comes first is the worst of all. Few tensors at fault among G take about 2 log2(G)
measurements each, not G.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import count as counting

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.gradients import read_logits
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.planned_groups import PlannedGroup
from lpcompile.analysis.rounded_activations import with_rounding_chosen
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph

Chosen = NDArray[np.bool_]


class ChosenRounding:
    """One session in which a run chooses what is rounded.

    Args:
        graph: the float graph and its plan.
        groups: of the plan; the `dynamic_inputs` stand behind them.
        observe: opens a graph.
        calls: that are run.
        logits: compare what the last softmax reads, where every output has one.
    """

    def __init__(
        self,
        graph: LpGraph,
        groups: Sequence[PlannedGroup],
        observe: ObserveGraph,
        calls: Sequence[Feeds],
        *,
        logits: bool,
    ) -> None:
        outputs = float_outputs(graph)
        read = read_logits(outputs) if logits else None
        names = read or [v.name for v in outputs]
        self._judge = Judge(observe(graph, names), calls, names, per_sample=False, logits=read is not None)
        changed, self._fed = with_rounding_chosen(graph, groups)
        self._run = observe(changed, names)

    def noise(self, chosen: Chosen) -> F64:
        """Noise power over signal power of each output, (O,), where these alone are rounded."""
        return self._judge.noise_by_output(lambda feeds: self._run({**feeds, self._fed: chosen}))


def worst_first(measure: Callable[[Chosen], F64], count: int, limit: int) -> Iterator[tuple[int, F64]]:
    """Tensors and what each costs alone, (O,), the worst at any output first; only what is asked for is measured.

    Noise that all bring alike is not worth looking for: after `limit` measurements there are no more.

    Args:
        measure: noise by output, (O,), of a set.
        count: tensors there are.
        limit: measurements.
    """
    order = counting()  # between sets that cost the same
    sets: list[tuple[float, int, NDArray[np.intp], F64]] = []

    def add(members: NDArray[np.intp]) -> None:
        chosen = np.zeros(count, bool)
        chosen[members] = True
        noise = measure(chosen)
        heapq.heappush(sets, (-float(noise.max()), next(order), members, noise))

    add(np.arange(count))
    measured = 1
    while sets:
        *_, members, noise = heapq.heappop(sets)
        if len(members) == 1:
            yield int(members[0]), noise
            continue
        measured += 2
        if measured > limit:
            return
        half = len(members) // 2
        add(members[:half])
        add(members[half:])
