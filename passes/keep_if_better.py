"""Whether the network as a whole gained by a pass: measured on the deciding calls, and undone where it lost."""

from lpcompile.analysis.gain import gain_db
from lpcompile.analysis.judged import Judged
from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan
from lpcompile.records import PassReport


def keep_if_better(
    graph: LpGraph, ctx: PassContext, before: QuantPlan, report: PassReport, *, stays: str = "codes stay"
) -> None:
    """Go back to an earlier plan where the rounded network lost, call by call, in dB of the noise of what is `Judged`.

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
    judged = Judged.of(graph)
    if not judged.names or ctx.calibration is None or ctx.observe is None or graph.plan is before:
        return
    names, calls = judged.names, ctx.calibration.deciding
    judge = Judge(ctx.observe(graph, names), calls, names, per_sample=False, logits=judged.logits)
    noise = [judge.noise_terms(ctx.observe(rounded_network(graph, p), names)) for p in (before, graph.plan)]
    gain, error = gain_db(*noise)
    report.metrics |= {"gain_db": gain, "gain_error_db": error, "gain_calls": len(noise[0])}
    if gain < 0:
        graph.plan = before
        report.changes.clear()
        report.skip("all layers", f"the network lost {-gain:.2f} dB on the samples: {stays}")
