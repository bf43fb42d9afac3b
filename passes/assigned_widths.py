"""Widths of activations that were chosen under a budget, carried into the plan and the report."""

from dataclasses import replace

from lpcompile.assignment.width_choice import Widths
from lpcompile.ir.graph import LpGraph
from lpcompile.records import PassReport


def write_widths(graph: LpGraph, widths: Widths, total: float, report: PassReport) -> None:
    """Plan the narrow tie groups, and complete the report's metrics.

    Args:
        graph: its plan changes.
        widths: chosen.
        total: predicted loss of weights and activations.
        report: of the pass, with the metrics of its weights.
    """
    for found in widths.narrow.values():
        share = found.loss / total if total > 0 else 0.0
        reason = f"4 bits within the budget: {share:.1%} of the predicted loss"
        for tensor in found.group.members:
            shared = graph.plan.activations[tensor].reason
            plan = replace(found.group.narrow, reason=f"{shared}; {reason}" if shared else reason)
            graph.plan = graph.plan.with_activation(tensor, plan)
            report.change(
                tensor,
                f"{plan.format}, {plan.rule}",
                before=found.group.planned.format,
                after=f"loss {found.loss:.3g}",
            )
    if widths.lower_bound is not None:
        report.metrics["predicted_loss"] = total
        report.metrics["activation_loss"] = widths.loss
        report.metrics["narrow_groups"] = float(len(widths.narrow))
        report.metrics["gap"] = max(0.0, total - widths.lower_bound) / total if total > 0 else 0.0
    for name, loss in widths.measured.items():
        report.metrics[f"measured_loss[{name}]"] = loss
