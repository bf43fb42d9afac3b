"""Widths of activations and formats of layers, decided one after the other and measured together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lpcompile.assignment.assign import exact
from lpcompile.assignment.joint import Joint
from lpcompile.assignment.scored import Scored, ScoredLayer
from lpcompile.assignment.width_choice import ScoredGroup, Widths, choose_widths, fixed
from lpcompile.errors import BudgetError
from lpcompile.passes.measured_assignment import AssignmentLoss
from lpcompile.plan import ActivationPlan


def formats_and_widths(
    scored: Scored,
    groups: Sequence[ScoredGroup],
    bounds: Mapping[str, float],
    planned: Mapping[str, ActivationPlan],
    chosen_formats: Callable[[Sequence[ScoredLayer]], Joint],
    measure: Callable[[], AssignmentLoss | None],
) -> tuple[Widths, Joint]:
    """Widths of activations first, exactly, then formats at these widths with all that can be measured.

    Formats are measured with float activations. The whole is measured once with activations rounded, beside 8 bits
    for all of them at the same bounds; the better one is taken.

    Args:
        scored: candidates of the layers.
        groups: tie groups that may take 4 bits.
        bounds: of all that is added up.
        planned: activations, at 8 bits.
        chosen_formats: chooses formats for layers priced at their widths.
        measure: what measures assignments once formats are chosen; None where nothing is measured.

    Raises:
        BudgetError: the bounds cannot be kept.
    """
    widths = choose_widths(scored.layers, groups, bounds)
    chosen, loss = chosen_formats(widths.layers), measure()
    if not widths.narrow or loss is None:
        return widths, chosen
    try:
        wide = exact(scored.layers, bounds)
    except BudgetError:
        return widths, chosen  # the bounds need narrow activations
    losses = {
        "narrow activations": loss.with_activations(widths.plans(planned)).of(chosen.assignment.picks),
        "8-bit activations": loss.with_activations(planned).of(wide.picks),
    }
    measured = {name: float(found.mean()) for name, found in losses.items()}
    if measured["8-bit activations"] < measured["narrow activations"]:
        widths = fixed(scored.layers, {})
        chosen = chosen_formats(scored.layers)
    return replace(widths, measured=measured), chosen
