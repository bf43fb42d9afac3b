"""Fold the factors of a scaling group into the constants around it, so that the float network stays as it is."""

import numpy as np

from lpcompile.ir.factor_flow import Part, Side
from lpcompile.ir.factor_rules import LAYERS
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.scaling_groups import ScalingGroup
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import F64, ChannelAffine
from lpcompile.passes.constant_inputs import is_float, output_at
from lpcompile.passes.layer_constants import absorb_after, absorb_before, weight_obstacle

SUFFIX = "/equalized"
LARGEST = 1e30  # of constants: divided by any factor they stay in float32


def fold_obstacle(group: ScalingGroup) -> str:
    """Why constants of a group cannot take factors in; empty where they can."""
    for part in group.parts:
        if not part.index.any():
            continue
        if part.node.op in LAYERS and (reason := weight_obstacle(part.node)):
            return reason
        constants = [v for v in part.node.inputs if v is not None and v.is_constant]
        if not all(
            is_float(v) and np.isfinite(v.values).all() and abs(v.values).max(initial=0) < LARGEST
            for v in constants
        ):
            return f"the constants of {part.node.name} are not finite floats"
    return ""


def fold(graph: LpGraph, group: ScalingGroup, s: F64) -> None:
    """Scale every tensor of a group, x / s; tensors that hold other numbers than before are renamed.

    Args:
        graph: changed in place.
        group: without an obstacle.
        s: (factors,), positive, factor 0 being 1.
    """
    for part in group.parts:
        if not part.index.any():
            continue
        by_channel, node = s[part.index], part.node
        if part.node.op in LAYERS:
            gain = 1 / by_channel if part.side is Side.WRITES else by_channel
            affine = ChannelAffine(output_at(node), gain, np.zeros_like(gain))
            absorb = absorb_after if part.side is Side.WRITES else absorb_before
            if (reason := absorb(graph, node, affine)) is not None:
                raise ValueError(reason)
        elif part.side is Side.WRITES:
            for i, value in enumerate(node.inputs[1:3], start=1):
                if value is not None:
                    node.set_input(i, _scaled(graph, part, value, 1 / by_channel))
        else:
            i = 0 if node.inputs[0] is not None and node.inputs[0].is_constant else 1
            value = node.inputs[i]
            assert value is not None
            divides = (part.side is Side.UNSCALES) == (node.op == "Div")
            node.set_input(i, _scaled(graph, part, value, 1 / by_channel if divides else by_channel))
    for value, index in group.tensors.items():
        if index.any():  # under its old name a reader would look for the old numbers
            graph.rename(value, value.name + SUFFIX)


def _scaled(graph: LpGraph, part: Part, value: Value, gain: F64) -> Value:
    """A constant of its own, `gain` times the old one; in the old shape where that has an element for each factor."""
    product = value.values.astype(np.float64) * gain
    shape = value.dims if product.size == value.values.size else product.shape
    array = product.reshape(shape).astype(value.dtype)
    return graph.constant(f"{part.node.name}/{part.side.value}", array)
