"""Whether the network as a whole gained by a pass: measured on the deciding calls, and undone where it lost."""

from lpcompile.analysis.gain import gain_db
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan
from lpcompile.records import PassReport


def keep_if_better(
    graph: LpGraph,
    ctx: PassContext,
    before: QuantPlan,
    report: PassReport,
    *,
    stays: str = "codes stay",
    errors: float = 0.0,
    measure: NetworkNoise | None = None,
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
        errors: standard errors by which a loss must show.
        measure: of this graph, where plans were measured before or will be again.
    """
    measure = measure or NetworkNoise(graph, ctx)
    if not measure.is_known or graph.plan is before:
        return
    noise = [measure.of(p) for p in (before, graph.plan)]
    gain, error = gain_db(*noise)
    report.metrics |= {"gain_db": gain, "gain_error_db": error, "gain_calls": len(noise[0])}
    if gain < -(errors * error if len(noise[0]) > 1 else 0):
        graph.plan = before
        report.changes.clear()
        report.skip("all layers", f"the network lost {-gain:.2f} dB on the samples: {stays}")
