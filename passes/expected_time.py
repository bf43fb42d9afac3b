"""How long a learning pass may take, for people who wait: shown with its progress, and nothing is decided by it."""

import time

import numpy as np

from lpcompile.analysis.batches import batch_inputs
from lpcompile.analysis.calibration import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext

LEARNING = 8.0  # runs of the float network that a sample takes in a step: forward, backward, rounding
STEP_SECONDS = 0.005  # of a step on a network that takes no time


def labelled(what: str, graph: LpGraph, ctx: PassContext, runs: float, steps: int) -> str:
    """A label for a progress bar, with the time that so many runs of the float network and steps would take.

    Args:
        what: is done.
        graph: the float graph.
        ctx: with samples; one call is run, twice.
        runs: of one sample each.
        steps: of gradient descent.
    """
    if ctx.calibration is None or ctx.observe is None or not ctx.calibration.deciding:
        return what
    call = ctx.calibration.deciding[0]
    run = ctx.observe(graph, [v.name for v in graph.outputs])
    run(call)
    start = time.perf_counter()
    run(call)
    seconds = (time.perf_counter() - start) / samples_of(graph, [call])
    return f"{what}, about {shown(runs * seconds + steps * STEP_SECONDS)}"


def samples_of(graph: LpGraph, calls: list[Feeds]) -> int:
    """Samples of calls: along a free first axis, else one a call."""
    batched = batch_inputs(graph)
    return sum(1 if batched is None else len(call[batched[0]]) for call in calls)


def shown(seconds: float) -> str:
    """A duration in the roundness of a guess: 40 s, 3 min, 2 h."""
    if seconds < 90:
        return f"{max(10, int(np.ceil(seconds / 10)) * 10)} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{round(seconds / 3600)} h"
