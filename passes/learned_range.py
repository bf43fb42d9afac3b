"""Ranges of activations that are learned: which may be, how far they may fall, and what comes back into the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.plan import STATIC
from lpcompile.quant.accumulators import BIAS_UNITS
from lpcompile.tuning.activation_scales import TunedScale

RANGES = ("narrow", "all", "fixed")
_FALL = 4.0  # channel scales of weights may fall to a fourth at the same time


def learnable_ranges(graph: LpGraph, which: str) -> dict[str, float]:
    """Tie groups whose scale is learned -> the least one with which biases of layers fit the int32 accumulator.

    Args:
        graph: with a plan.
        which: one of RANGES: below 8 bits, all, none.
    """
    planned = graph.plan.activations.values()
    found = {p.tie_group: 0.0 for p in planned if which == "all" or (which == "narrow" and p.code_max < 255)}
    for node in graph.layers():
        plan, x = graph.plan.layers.get(node.name), node.inputs[0]
        read = None if x is None else graph.plan.activations.get(x.name)
        if plan is None or plan.kernel not in STATIC or plan.tensor is None or read is None:
            continue
        bias = planned_bias(node, plan)
        if bias is None or read.tie_group not in found:
            continue
        _, scales = plan.tensor.int8_image()
        units = np.abs(bias.astype(np.float64)) / scales
        least = _FALL * float(units.max(initial=0.0)) / BIAS_UNITS
        found[read.tie_group] = min(read.scale, max(found[read.tie_group], least))
    return found


def write_ranges(graph: LpGraph, scales: Sequence[TunedScale], values: Mapping[str, F32]) -> list[str]:
    """Put learned scales into the plan, for every tensor of their groups; those that moved."""
    learned = {s.plan.tie_group: s.planned(values) for s in scales}
    moved = []
    for tensor, plan in graph.plan.activations.items():
        found = learned.get(plan.tie_group, plan)
        if found.scale != plan.scale:
            learned_plan = replace(plan, scale=found.scale, rule=found.rule, start=found.start)
            graph.plan = graph.plan.with_activation(tensor, learned_plan)
            moved.append(tensor)
    return moved
