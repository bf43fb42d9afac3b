"""Assignments that measured about as well as the one that was chosen, told apart once their weights are rounded again.

Whole assignments are compared as they are after the first rounding. What the second rounding makes of them differs by
several tenths of a decibel, up or down, for reasons that no prediction knows: so the best few go through it, too, as
far as that takes little time. The outputs of the deciding calls choose. [architecture 6]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.gain import gain_db
from lpcompile.analysis.macs import macs_of_call
from lpcompile.analysis.sampled_columns import MOST_ROWS
from lpcompile.assignment.joint import Joint
from lpcompile.assignment.width_choice import Widths
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.network_noise import NetworkNoise
from lpcompile.passes.rounded_layer import with_rounding
from lpcompile.passes.written_assignment import write_assignment
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan
from lpcompile.records import PassReport

MOST = 3  # that are rounded again beside the one that was chosen
MOST_MACS = 1.2e11  # of all that; five seconds or so on two cores
SOLVING = 10.0  # cubes of the inputs of a layer that its solves and factors take

RoundedAgain = Callable[[PassReport], None]  # plans other codes and biases for the graph


def plans_of_finalists(
    graph: LpGraph, before: QuantPlan, widths: Widths, chosen: Joint, *, in_db: bool
) -> dict[str, QuantPlan]:
    """Plans of the rivals that measured best beside the one chosen, by name; their weights are not rounded yet.

    Args:
        graph: its plan is not changed.
        before: the plan that assignments are written into.
        widths: of activations.
        chosen: with the others that were measured.
        in_db: as `write_assignment` takes it.
    """
    found, kept = {}, graph.plan
    for other in chosen.others[:MOST]:
        graph.plan = before
        write_assignment(
            graph, widths, replace(chosen, assignment=other, swapped={}), PassReport(""), in_db=in_db
        )
        found[other.name] = graph.plan
    graph.plan = kept
    return found


def affordable_finalists(graph: LpGraph, calls: Sequence[Feeds], names: Sequence[str]) -> int:
    """How many more assignments can be rounded again within MOST_MACS.

    Args:
        graph: float graph.
        calls: deciding ones.
        names: of the layers that are rounded.
    """
    if not calls:
        return 0
    shaped = graph.copy()
    shaped.infer_shapes({k: v.shape for k, v in calls[0].items()})
    total = 0.0
    for name in names:
        node = shaped.node(name)
        weight = node.inputs[1]
        assert weight is not None
        work, groups = len(calls) * (macs_of_call(node) or 0), int(node.attrs.get("group", 1))
        outputs = weight.dims[-1] if node.op in ("Gemm", "MatMul") else weight.dims[0]
        size = max(1, prod(weight.dims))
        inputs, rows = size // max(1, outputs), min(MOST_ROWS, work / size)
        total += 2 * work + groups * inputs**2 * (2 * rows + SOLVING * inputs)
    return int(min(MOST, MOST_MACS // max(1.0, total)))


def keep_best_finalist(
    graph: LpGraph,
    ctx: PassContext,
    rounded_again: RoundedAgain,
    most: int,
    report: PassReport,
    measure: NetworkNoise,
) -> None:
    """Round finalists again and keep the best plan: that of the graph, or that of one of them.

    Args:
        graph: with a plan whose weights are rounded again.
        ctx: with finalists and samples.
        rounded_again: what was done to it.
        most: finalists.
        report: of the pass; that of the finalist takes its place where one wins.
        measure: of plans for the graph.
    """
    plans = {name: p for name, plan in ctx.finalists.items() if (p := _first_rounded(plan, ctx)) is not None}
    plans = dict(list(plans.items())[:most])
    ctx.finalists.clear()  # another run has nothing to choose from
    if not plans or not measure.is_known:
        return
    chosen, least = graph.plan, measure.of(graph.plan)
    first, winner = least, ""
    for name, plan in plans.items():
        graph.plan, trial = plan, PassReport(report.name)
        rounded_again(trial)
        found = measure.of(graph.plan)
        gain, error = gain_db(first, found)
        report.metrics[f"gain_db[{name}]"], report.metrics[f"gain_error_db[{name}]"] = gain, error
        if found.mean() < least.mean():
            chosen, least, winner = graph.plan, found, name
            report.changes[:], report.skips[:] = trial.changes, trial.skips
            report.metrics |= trial.metrics
    graph.plan = chosen
    if winner:
        gain, _ = gain_db(first, least)
        report.change("all layers", f"formats of '{winner}': {gain:.2f} dB better once rounded again")


def _first_rounded(plan: QuantPlan, ctx: PassContext) -> QuantPlan | None:
    """A plan with its weights as they were rounded when it was measured; None where some were not kept."""
    for name, layer in plan.layers.items():
        if layer.weight.format == "float32" or layer.tensor is not None:
            continue
        found = ctx.rounded.get((name, layer.weight))
        if found is None:
            return None
        plan = plan.with_layer(name, replace(with_rounding(layer, found), kernel=found.kernel))
    return plan
