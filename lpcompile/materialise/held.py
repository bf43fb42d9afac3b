"""Layers and norms whose plan says how their multiplier is held: scale and shift in steps of the output."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.channel_norm import ChannelNorm
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.value import Value
from lpcompile.materialise.storage import image_rows
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, RequantPlan
from lpcompile.quant.multipliers import held_line


@dataclass(frozen=True, slots=True, eq=False)
class HeldLine:
    """`y = clip(round(multiplier * acc + shift) + zero)`, with `acc` of the int8 weights and without a bias.

    Attributes:
        multiplier: (C_out,), as it is held.
        shift: (C_out,) in steps of the output; None for a layer that has no bias and needs none.
        x_scale, y_scale: of input and output.
    """

    multiplier: NDArray[np.float64]
    shift: NDArray[np.float64] | None
    x_scale: float
    y_scale: float

    @property
    def weight_scale(self) -> NDArray[np.float32]:
        """(C_out,) scales of the int8 weights with which the scales of the tensors give this multiplier."""
        return (self.multiplier * self.y_scale / self.x_scale).astype(np.float32)

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """The bias that gives this shift, (C_out,)."""
        return None if self.shift is None else (self.shift * self.y_scale).astype(np.float32)


def held_line_of(node: Node, plan: LayerPlan, whole: QuantPlan, output: Value | None) -> HeldLine | None:
    """What the plan of a graph says of one of its layers; None where its multiplier is the target's own.

    Args:
        node: the float layer.
        plan: of the layer, with codes.
        whole: of the graph.
        output: the planned tensor that the layer fills.
    """
    held, x = whole.requants.get(node.name), node.inputs[0]
    if held is None or plan.kernel is not Kernel.INTEGER or output is None or x is None:
        return None
    assert plan.tensor is not None
    x_scale, y_scale = whole.activations[x.name].scale, whole.activations[output.name].scale
    _, scale = image_rows(plan)
    step = x_scale * np.broadcast_to(scale.reshape(-1), plan.tensor.shape[:1]).astype(np.float64)
    bias = planned_bias(node, plan)
    shift = np.zeros(len(step)) if bias is None else bias.astype(np.float64) / y_scale
    centre = None if held.centre is None else held.centre / step
    multiplier, shift = held_line(step / y_scale, shift, held.multiplier, centre)
    return HeldLine(multiplier, None if bias is None and centre is None else shift, x_scale, y_scale)


def norm_line(
    norm: ChannelNorm, x: ActivationPlan, y: ActivationPlan, held: RequantPlan
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Multiplier and shift, (C,) each, that take codes of `x` to codes of `y` less their zero."""
    scale = norm.scale * x.scale / y.scale
    shift = norm.shift / y.scale - scale * x.zero_point
    centre = None if held.centre is None else held.centre / x.scale + x.zero_point
    return held_line(scale, shift, held.multiplier, centre)


def sum_scales(
    operands: tuple[ActivationPlan, ActivationPlan], y: ActivationPlan, held: RequantPlan
) -> tuple[float, float]:
    """What steps of the two operands of a sum are in steps of its result."""
    scales = np.array([p.scale / y.scale for p in operands])
    first, second = held_line(scales, np.zeros(2), held.multiplier)[0]
    return float(first), float(second)


def product_scale(
    operands: tuple[ActivationPlan, ActivationPlan], y: ActivationPlan, held: RequantPlan
) -> float:
    """What the product of a step of each operand is in steps of the result."""
    scale = np.array([operands[0].scale * operands[1].scale / y.scale])
    return float(held_line(scale, np.zeros(1), held.multiplier)[0][0])
