"""Below which scales the integers of a layer's weights would not fit what they are multiplied and added in."""

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.formats.planned import format_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.product_order import product_order
from lpcompile.plan import STATIC, SUMMING, Kernel, WeightPlan
from lpcompile.quant.accumulators import BIAS_UNITS, LARGEST_CODE
from lpcompile.quant.neighbours import least_pair_scales
from lpcompile.quant.rows import to_rows


def least_scale(graph: LpGraph, node: Node, kernel: Kernel, weight: WeightPlan | None = None) -> F32 | None:
    """Channel scales of the int8 image below which the int32 bias or an int16 sum of two products would not fit.

    Args:
        graph: its plan knows the activations, and whether products are added in pairs.
        node: the layer.
        kernel: its kernel.
        weight: how its weights are stored, where that is known; None: in a way that takes any scale.

    Returns:
        (C_out,), or None where any scale will do.
    """
    found = [_least_for_bias(graph, node, kernel)]
    if graph.plan.reduce_range and kernel in SUMMING and (weight is None or _takes_scales(weight)):
        found.append(_least_for_pairs(graph, node, kernel))
    known = [f for f in found if f is not None]
    return None if not known else np.maximum.reduce(known)


def _least_for_bias(graph: LpGraph, node: Node, kernel: Kernel) -> F32 | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    x = node.inputs[0]
    if bias is None or x is None or kernel not in STATIC:
        return None
    least = np.abs(bias.values.astype(np.float64)) / (graph.plan.activations[x.name].scale * BIAS_UNITS)
    return least.astype(np.float32)


def _least_for_pairs(graph: LpGraph, node: Node, kernel: Kernel) -> F32 | None:
    order = product_order(node)
    if order is None:
        return None
    weight = node.inputs[1]
    assert weight is not None
    rows = to_rows(node.op, weight.values)
    return least_pair_scales(rows, order, largest_code(graph, node, kernel))


def largest_code(graph: LpGraph, node: Node, kernel: Kernel) -> int:
    """The largest code that a layer may read."""
    x = node.inputs[0]
    plan = None if x is None or kernel not in STATIC else graph.plan.activations.get(x.name)
    return LARGEST_CODE if plan is None else plan.code_max


def _takes_scales(weight: WeightPlan) -> bool:
    """Whether a larger scale leaves smaller integers: of groups, and of formats that are integers themselves.

    A table of 4 bits a channel has an image of its own; a larger scale would only leave its upper codes unused.
    """
    fmt = format_of(weight.format)
    return weight.granularity.startswith("group") or fmt.bits >= 8
