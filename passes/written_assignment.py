"""An assignment carried into the plan and the report: formats of layers, widths of activations, reasons, figures."""

import math
from collections.abc import Sequence
from dataclasses import replace

from lpcompile.assignment.joint import Joint
from lpcompile.assignment.overrides import Override, override_of
from lpcompile.assignment.scored import ScoredLayer
from lpcompile.assignment.width_choice import COUNTS_ACTIVATIONS, Widths
from lpcompile.formats.planned import LEARNED
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.records import PassReport


def write_assignment(
    graph: LpGraph, widths: Widths, chosen: Joint, report: PassReport, *, in_db: bool
) -> None:
    """Plan formats and widths as chosen.

    Args:
        graph: its plan changes.
        widths: of activations.
        chosen: formats of the layers at these widths.
        report: of the pass.
        in_db: whether predicted losses are half the noise power of the outputs over their signal power.
    """
    total = chosen.assignment.loss + widths.loss
    for layer in widths.layers:
        candidate = layer.candidates[chosen.assignment.picks[layer.name]]
        share = candidate.loss / total if total > 0 else 0.0
        reason = f"{share:.1%} of the predicted loss" + (f"; {layer.reason}" if layer.reason else "")
        if layer.name in chosen.swapped:
            reason += f"; measured better than {chosen.swapped[layer.name][0]}"
        before = graph.plan.layers[layer.name]
        end = -10 * math.log10(2 * candidate.loss) if in_db and candidate.loss > 0 else None
        graph.plan = graph.plan.with_layer(
            layer.name,
            replace(
                before,
                weight=candidate.weight,
                reason=reason,
                sensitivity=layer.sensitivity,
                end_sqnr_db=end,
            ),
        )
        report.change(
            layer.name, candidate.label, before=before.weight.format, after=f"loss {candidate.loss:.3g}"
        )
    report.metrics |= _metrics(widths.layers, chosen)
    _write_widths(graph, widths, total, report)


def learned_tables(
    graph: LpGraph, nodes: Sequence[Node], formats: Sequence[str], overrides: Sequence[Override]
) -> frozenset[str]:
    """Layers whose format is a table learned for them; none that was named by its digits.

    Args:
        graph: its plan has the formats that were chosen.
        nodes: the layers.
        formats: that all may take.
        overrides: what the user wants of layers by name.
    """
    found = []
    for node in nodes:
        rule, chosen = override_of(node.name, overrides), graph.plan.layers[node.name].weight.format
        asked = formats if rule is None else [rule.format]
        if LEARNED in asked and chosen.startswith(f"{LEARNED}:") and chosen not in asked:
            found.append(node.name)
    return frozenset(found)


def _write_widths(graph: LpGraph, widths: Widths, total: float, report: PassReport) -> None:
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


def _metrics(layers: Sequence[ScoredLayer], chosen: Joint) -> dict[str, float]:
    found = chosen.assignment
    metrics = {
        "candidates": float(sum(len(layer.candidates) for layer in layers)),
        "predicted_loss": found.loss,
        "measurements": float(chosen.measurements),
        "swaps": float(len(chosen.swapped)),
    }
    if found.gap is not None:
        metrics["gap"] = found.gap
    metrics |= {name: value for name, value in found.costs.items() if name in COUNTS_ACTIVATIONS}
    for name, loss in chosen.measured.items():
        metrics[f"measured_loss[{name}]"] = loss
    return metrics
