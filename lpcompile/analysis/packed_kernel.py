"""Whether a matrix should run from packed 4-bit codes (MatMulNBits), by its rows and the target's recorded table.

MatMulNBits reads half the bytes of an int8 kernel, but unpacks them again for every row: it wins with one or two rows
of large matrices, which a decoder has, and loses several times with a sentence. So a layer needs a number of rows
that is the same in every call, a format that the kernel holds exactly, and a table that says it pays.
"""

from dataclasses import dataclass

from lpcompile.analysis.macs import fixed_rows, layer_shape
from lpcompile.formats.planned import format_of
from lpcompile.ir.node import Node
from lpcompile.plan import WeightPlan
from lpcompile.target import LayerShape, Target

MOST_ROWS = (
    2  # at three, one of the two processors that were measured wins 15 %, the other loses (decisions/0013)
)
GAIN = 1.15  # the packed kernel must be clearly faster


@dataclass(frozen=True, slots=True)
class PackedChoice:
    """Whether the packed kernel is taken, and why or why not; no word where weights have more than 4 bits."""

    yes: bool
    reason: str = ""


def packed_choice(node: Node, target: Target, weights: WeightPlan, *, static: bool) -> PackedChoice:
    """The choice for one MatMul or Gemm.

    Args:
        node: the layer; its weight is a constant matrix, (K, N).
        target: says what its kernel holds, and what kernels cost.
        weights: how they will be stored.
        static: whether the layer would otherwise take integers with calibrated ranges, not measured ones.
    """
    fmt, shape = format_of(weights.format), layer_shape(node)
    if fmt.bits > 4:
        return PackedChoice(False)
    obstacle = target.packed_obstacle(fmt, weights.granularity, shape.inputs)
    if obstacle:
        return PackedChoice(False, f"its codes do not stay packed: {obstacle}")
    rows = fixed_rows(node)
    if rows is None or shape.rank is None or shape.rank < 2:
        return PackedChoice(False, "its codes do not stay packed: the number of rows is not fixed")
    if rows > MOST_ROWS:
        return PackedChoice(False, f"its codes do not stay packed: {rows} rows, more than {MOST_ROWS}")
    return _by_cost(shape, target, static=static)


def _by_cost(shape: LayerShape, target: Target, *, static: bool) -> PackedChoice:
    costs = target.cost_model
    if costs is None:
        return PackedChoice(False)
    packed = costs.few_rows_ns(shape, "nbits")
    rivals = {k: costs.few_rows_ns(shape, k) for k in (("integer", "float-out") if static else ("dynamic",))}
    rivals["float"] = costs.few_rows_ns(shape, "float")
    known = {k: ns for k, ns in rivals.items() if ns is not None}
    if packed is None or len(known) < len(rivals) or shape.rows is None:
        return PackedChoice(False, f"its codes do not stay packed: no times for it ({costs.name})")
    if static:  # neighbours on integers are left and entered again
        packed += costs.quantize_ns(shape.rows * shape.inputs) + costs.quantize_ns(shape.rows * shape.outputs)
    best = min(known, key=lambda k: known[k])
    figures = f"{packed / 1e3:.0f} us against {known[best] / 1e3:.0f} us {best} ({costs.name})"
    if packed * GAIN >= known[best]:
        return PackedChoice(False, f"its codes do not stay packed: {figures}")
    return PackedChoice(True, figures)
