"""What the rounding of each activation costs the outputs, were no other rounded: measured, in halves of sets.

Noise adds up, so that a set which costs next to nothing clears all that is in it; what costs much is halved until
single tensors are left. Few tensors at fault among G take about 2 log2(G) measurements each, not G.
"""

from collections.abc import Callable, Sequence

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


def noise_alone(measure: Callable[[Chosen], F64], count: int, least: float) -> F64:
    """Noise that each of `count` tensors brings to each output, (count, O).

    Args:
        measure: noise by output of a set.
        count: tensors.
        least: sets whose noise is at most this at every output are not looked into; theirs is spread over its members.
    """
    found: dict[int, F64] = {}
    waiting = [np.arange(count)]
    while waiting:
        members = waiting.pop()
        chosen = np.zeros(count, bool)
        chosen[members] = True
        noise = measure(chosen)
        if len(members) > 1 and noise.max() > least:
            half = len(members) // 2
            waiting += [members[half:], members[:half]]
        else:
            found |= dict.fromkeys(members.tolist(), noise / len(members))
    return np.stack([found[i] for i in range(count)])
