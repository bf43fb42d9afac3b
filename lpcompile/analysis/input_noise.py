"""What rounding the inputs of some layers does to the outputs of a network, together or one at a time.

The graph is loaded once; ranges come with every run, which leaves some inputs alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_activations import LEFT_ALONE, ranges_of, with_inputs_fed
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan

LEAST_RANGE = 1e-30  # of an input that is zero; a scale below float32's normal numbers may count as 0


def range_plan(low: float, high: float, levels: int) -> ActivationPlan:
    """A grid of so many levels from low to high, 0 among its points."""
    least, most = float(min(low, 0.0)), float(max(high, 0.0))
    scale = float(np.float32(max(most - least, LEAST_RANGE) / (levels - 1)))
    zero = int(np.clip(np.rint(-least / scale), 0, levels - 1))
    return ActivationPlan("uint8" if levels > 16 else "uint4", scale, zero, "")


class InputNoise:
    """Noise of a network whose layers read rounded inputs.

    Args:
        graph: float.
        readers: names of layers that read one tensor, for each tensor.
        observe: opens a graph.
        judge: of the float network.
    """

    def __init__(
        self, graph: LpGraph, readers: Sequence[Sequence[str]], observe: ObserveGraph, judge: Judge
    ) -> None:
        rounded, self._fed = with_inputs_fed(graph, readers)
        self._run, self._judge = observe(rounded, judge.outputs), judge

    def of(self, plans: Sequence[ActivationPlan], only: int | None = None, calls: int | None = None) -> F64:
        """Noise over signal of every call.

        Args:
            plans: of each tensor.
            only: the one that is rounded; None: all.
            calls: the first ones; None: all.
        """
        ranges = ranges_of(plans)
        if only is not None:
            ranges[np.arange(len(plans)) != only] = LEFT_ALONE

        def run(call: Mapping[str, NDArray[Any]]) -> Feeds:
            return self._run({**call, self._fed: ranges})

        return self._judge.noise_terms(run, None if calls is None else lambda terms: len(terms) >= calls)
