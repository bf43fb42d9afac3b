"""Whether the network as a whole gained by a pass: measured on the deciding calls, and undone where it lost."""

import math

import numpy as np

from lpcompile.analysis.gain import gain_db
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.autodiff.losses import float_outputs
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan
from lpcompile.records import PassReport

FEW_CALLS = 8  # that tell how good a network is


def output_sqnr_db(graph: LpGraph, ctx: PassContext) -> float | None:
    """Of the rounded network, on some deciding calls; None where nothing can be measured.

    Args:
        graph: with its plan.
        ctx: with samples.
    """
    outputs = [v.name for v in float_outputs(graph)]
    if not outputs or ctx.calibration is None or ctx.observe is None:
        return None
    calls = ctx.calibration.deciding
    some = [calls[int(i)] for i in np.linspace(0, len(calls) - 1, min(FEW_CALLS, len(calls))).round()]
    judge = Judge(ctx.observe(graph, outputs), some, outputs, per_sample=False)
    noise = float(judge.noise_terms(ctx.observe(rounded_network(graph, graph.plan), outputs)).mean())
    return float("inf") if noise <= 0 else -10 * math.log10(noise)


def keep_if_better(
    graph: LpGraph, ctx: PassContext, before: QuantPlan, report: PassReport, *, stays: str = "codes stay"
) -> None:
    """Go back to an earlier plan where the outputs of the rounded network lost, call by call, in dB of their noise.

    The gain, its standard error and the number of calls go into the metrics of the report. The calls are those that
    the pass learned from: a gain on them may be chance, a loss is one indeed. Of one call no error is known, and that
    call decides alone. Nothing is measured where no output holds floats.

    Args:
        graph: with the plan of the pass; its plan is what is kept.
        ctx: with samples.
        before: the plan as the pass found it, for the same float graph.
        report: of the pass.
        stays: what a loss means, for the report.
    """
    outputs = [v.name for v in float_outputs(graph)]
    if not outputs or ctx.calibration is None or ctx.observe is None or graph.plan is before:
        return
    judge = Judge(ctx.observe(graph, outputs), ctx.calibration.deciding, outputs, per_sample=False)
    noise = [judge.noise_terms(ctx.observe(rounded_network(graph, p), outputs)) for p in (before, graph.plan)]
    gain, error = gain_db(*noise)
    report.metrics |= {"gain_db": gain, "gain_error_db": error, "gain_calls": len(noise[0])}
    if gain < 0:
        graph.plan = before
        report.changes.clear()
        report.skip("all layers", f"the network lost {-gain:.2f} dB on the samples: {stays}")
