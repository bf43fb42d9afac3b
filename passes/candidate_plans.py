"""What the weights of a layer may become, as far as its kernel can hold that."""

from collections.abc import Sequence

from lpcompile.assignment.candidates import candidates_of
from lpcompile.assignment.layer_facts import LayerFacts
from lpcompile.errors import PipelineError
from lpcompile.formats.planned import format_of
from lpcompile.ir import block_matmul
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.target import Target


def candidate_plans(
    node: Node,
    kernel: Kernel,
    facts: LayerFacts,
    target: Target,
    formats: Sequence[str],
    granularities: Sequence[str] | None,
    rounding: str,
) -> list[WeightPlan]:
    """Candidates of one layer.

    Args:
        node: the layer.
        kernel: how it will run.
        facts: of it.
        target: where.
        formats: names that may be taken.
        granularities: "channel" or "group<N>"; None: those that suit the target.
        rounding: of the plans.

    Raises:
        PipelineError: none of these can be stored.
    """
    plans = candidates_of(
        node,
        target,
        formats=formats,
        granularities=granularities,
        rounding=rounding,
        expanded=kernel is Kernel.WEIGHT_ONLY,
    )
    kept = [p for p in plans if kernel is not Kernel.NBITS or _packs(p, facts.rows[1])]
    if not kept:
        scales = "" if granularities is None else f" with scales per {' or '.join(granularities)}"
        raise PipelineError(
            f"layer '{node.name}' can be stored in none of {', '.join(formats)}{scales}",
            hint="give more formats, leave the granularity out, or keep the layer with --keep-float",
        )
    return kept


def _packs(plan: WeightPlan, inputs: int) -> bool:
    return not block_matmul.obstacle(format_of(plan.format), plan.granularity, inputs, codebooks=False)
