"""Fake quantisation: QuantizeLinear and DequantizeLinear, whose pair is the identity to a gradient (straight-through).

The gradient of the codes is kept in units of what they stand for, so that both halves hand it on as it is. A range is a
Clip before the pair, which has a gradient of its own. [bengio2013]
"""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.ir.node import Node


@rule("QuantizeLinear", "DequantizeLinear")
def straight_through(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Scales and zero points have none."""
    del b, wanted
    return [grads[0], *[None] * (len(node.inputs) - 1)]
