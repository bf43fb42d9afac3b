"""Tensors whose 8-bit codes ruin the outputs of a network: measured one at a time, they keep floats.

A spectrum of which a logarithm is taken, or a variance written in parts, spans more orders of magnitude than 256
steps show. One such tensor can cost all of the outputs; every later decision would then be made on a ruined network,
and in the end every layer would fall back. Of a network that loses less than that, nothing but the loss is measured.
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.gradients import Samples
from lpcompile.analysis.planned_groups import PlannedGroup, planned_groups
from lpcompile.analysis.range_noise import RangeNoise
from lpcompile.analysis.rounded_activations import fine_ranges, ranges_of
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC, LayerPlan

RUINED_DB = 12.0  # output SQNR of all tensors in codes below which they are measured
AIM_DB = 20.0  # what is left may cost
GAIN_DB = 3.0  # the least that keeping floats must bring
MOST_SHARE = 8  # one group in so many may keep floats; two at least
CALLS = 2


@dataclass(frozen=True)
class Harmful:
    """What keeps floats.

    Attributes:
        nodes: name -> why.
        before, after: output SQNR in dB with all tensors in codes, and without these.
    """

    nodes: dict[str, str]
    before: float = np.inf
    after: float = np.inf


def harmful_ranges(graph: LpGraph, ctx: PassContext) -> Harmful:
    """Nodes that read or make the tensors at fault, of a graph whose activations are planned; none where all is well.

    The deciding calls are used. Noise adds up: tensors are left out, the worst first, until what the others cost
    alone is AIM_DB in sum, and the choice is measured as a whole.
    """
    groups = [g for g in planned_groups(graph) if g.sources]
    if not groups or ctx.calibration is None or ctx.observe is None or not float_outputs(graph):
        return Harmful({})
    calls = (2 * ctx.calibration.deciding)[:CALLS]
    measure = RangeNoise(graph, graph, groups, ctx.observe, Samples(calls, per_sample=False), "outputs")
    codes, fine = ranges_of([g.plan for g in groups]), fine_ranges([g.plan for g in groups])

    def noise(rounded: np.ndarray) -> float:
        ranges: F32 = np.where(rounded[:, None], codes, fine)
        return float(np.mean([measure.of_ranges(half, ranges).mean() for half in range(CALLS)]))

    before = noise(np.ones(len(groups), bool))
    if not before > _ratio(RUINED_DB):
        return Harmful({})
    alone = np.empty(len(groups))
    for i in range(len(groups)):
        alone[i] = noise(np.arange(len(groups)) == i)
        ctx.progress("measuring ranges one by one", i + 1, len(groups))
    left = np.ones(len(groups), bool)
    for i in np.argsort(-alone, kind="stable")[: max(2, len(groups) // MOST_SHARE)]:
        if not alone[left].sum() > _ratio(AIM_DB):
            break
        left[i] = False
    after = noise(left)
    if not _db(after) >= _db(before) + GAIN_DB:
        return Harmful({})
    nodes: dict[str, str] = {}
    for group, kept, cost in zip(groups, left, alone, strict=True):
        if not kept:
            why = f"'{group.name}' in 8 bits alone would leave {_db(cost):.1f} dB of the outputs"
            nodes |= dict.fromkeys(_touching(graph, group), why)
    return Harmful(nodes, _db(before), _db(after))


def _touching(graph: LpGraph, group: PlannedGroup) -> list[str]:
    """Nodes on integers that make or read a tensor of the group."""
    found = []
    for name in group.members:
        tensor = graph.value(name)
        for node in (*([tensor.producer] if tensor.producer is not None else []), *tensor.consumers):
            static = graph.plan.layers.get(node.name, LayerPlan()).kernel in STATIC
            if static or node.name in graph.plan.elementwise:
                found.append(node.name)
    return found


def _ratio(db: float) -> float:
    return float(10 ** (-db / 10))


def _db(ratio: float) -> float:
    return float(-10 * np.log10(max(ratio, 1e-30)))
