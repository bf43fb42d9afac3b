"""What the weights of a layer may become, as far as its kernel can hold that."""

from collections.abc import Collection, Mapping, Sequence
from math import inf

from lpcompile.assignment.candidates import FORMATS, SHORT_SCALES, candidates_of
from lpcompile.assignment.costs import additive_bounds
from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.errors import PipelineError
from lpcompile.formats.planned import format_of
from lpcompile.ir import block_matmul
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.target import Target

AUTO_FORMATS = "+".join(FORMATS)
MORE, LESS = "int6", "int3"  # that are added to those
MANY_WEIGHTS = 400_000  # from which on: the functions that read one more width take 1 to 4 kB, 11 for two
TIGHT_BITS = 4.375  # a weight, below which the narrow one is worth its fits
FOUR_BITS = LayerFormat(WeightPlan("fixp4", "channel", scale_format=SHORT_SCALES), kernel=Kernel.WEIGHT_ONLY)


def candidate_formats(
    formats: str, budget: Mapping[str, float], layers: Sequence[LayerFacts], fixed: Collection[int] = ()
) -> list[str]:
    """Names of the formats that layers may take.

    To AUTO_FORMATS come, under a budget, MORE in networks of MANY_WEIGHTS and LESS below TIGHT_BITS there; both where
    no format of 4 bits keeps the budget.

    Args:
        formats: joined by +.
        budget: bounds by name.
        layers: all with weights.
        fixed: positions of those whose weights stay as they are.
    """
    names = formats.split("+")
    if formats != AUTO_FORMATS or not budget:
        return names
    bounds = additive_bounds(budget, layers)
    most = min(bounds.get("bits", inf), 8 * bounds.get("bytes", inf))
    weights = _weights(layers)
    held = (x.left_alone if i in fixed else FOUR_BITS for i, x in enumerate(layers))
    least = sum(stored_bits(x, how) for x, how in zip(layers, held, strict=True))
    needed, many = most < least * (1 - 1e-9), weights >= MANY_WEIGHTS
    narrow = needed or (many and most < TIGHT_BITS * weights)
    return [*names, *([MORE] if needed or many else []), *([LESS] if narrow else [])]


def formats_of_any_width(formats: str, layers: Sequence[LayerFacts]) -> list[str]:
    """The same for trying one budget after another: all that any of them adds in networks of MANY_WEIGHTS.

    Args:
        formats: joined by +.
        layers: all with weights.
    """
    names = formats.split("+")
    return [*names, MORE, LESS] if formats == AUTO_FORMATS and _weights(layers) >= MANY_WEIGHTS else names


def _weights(layers: Sequence[LayerFacts]) -> int:
    return sum(layer.weights for layer in layers)


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
