"""Samples of what layers read, for side paths that are concatenated to them; gathered once for all passes."""

from collections.abc import Sequence
from math import isclose

from lpcompile.analysis.hidden_samples import Reading, hidden_samples
from lpcompile.analysis.layer_inputs import InputReading, input_reading
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC

NO_SAMPLES = "no calibration data, so what its path gives has no known range"


def path_inputs(graph: LpGraph, ctx: PassContext, names: Sequence[str]) -> None:
    """Gather what is missing into `ctx.path_inputs`; without calibration data there is none.

    Args:
        graph: float graph whose plan knows kernels and activations.
        ctx: keeps them.
        names: of layers.
    """
    readings: dict[str, Reading] = {}
    for name in names:
        x, reading = graph.node(name).inputs[0], input_reading(graph.node(name))
        if x is None or not isinstance(reading, InputReading):
            continue
        static = graph.plan.layers[name].kernel in STATIC
        plan, known = graph.plan.activations[x.name] if static else None, ctx.path_inputs.get(name)
        if known is None or (plan is not None and not isclose(plan.scale, known.step, rel_tol=1e-9)):
            readings[name] = reading, plan
    if not readings or ctx.calibration is None or ctx.calibration.generated or ctx.observe is None:
        return
    ctx.path_inputs |= hidden_samples(
        graph,
        readings,
        ctx.observe,
        ctx.calibration.deciding,
        lambda done, total: ctx.progress("sampling inputs of side paths", done, total),
    )
