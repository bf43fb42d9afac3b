"""Tensors whose 8-bit codes ruin the outputs of a network: measured, they keep floats.

A spectrum of which a logarithm is taken, or a variance written in parts, spans more orders of magnitude than 256
steps show. One such tensor can cost all of the outputs; every later decision would then be made on a ruined network,
and in the end every layer would fall back. Of a network that loses less than that, nothing but the loss is measured.
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.dynamic_rounding import dynamic_inputs
from lpcompile.analysis.gradients import read_logits
from lpcompile.analysis.planned_groups import PlannedGroup, planned_groups
from lpcompile.analysis.rounding_alone import Chosen, ChosenRounding, worst_first
from lpcompile.autodiff.losses import float_outputs
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC, LayerPlan

RUINED_DB = 16.0  # SQNR of the worst output, all tensors in codes, below which they are measured
RUINED_ON_MACHINE_DB = 10.0  # the same where what keeps floats leaves the machine
AIM_MORE_DB = 4.0  # above that no more are left out
GAIN_DB = 3.0  # the least that keeping floats must bring
MOST_SHARE = 8  # one tensor in so many may keep floats
MOST_OF_FEW = 8  # or so many, where that is more
CALLS = 2


@dataclass(frozen=True)
class Harmful:
    """What keeps floats.

    Attributes:
        nodes: name -> why.
        before, after: SQNR in dB of the worst output with all tensors in codes, and without these.
    """

    nodes: dict[str, str]
    before: float = np.inf
    after: float = np.inf


def harmful_ranges(graph: LpGraph, ctx: PassContext) -> Harmful:
    """Nodes that read or make the tensors at fault, of a graph whose activations are planned; none where all is well.

    The deciding calls are used. Tensors are left out, the worst alone first, until the others leave enough. They are
    told apart at the logits, where noise adds up, and judged as a whole at the outputs.
    """
    machine = ctx.target is not None and not ctx.target.rules.falls_back
    ruined = RUINED_ON_MACHINE_DB if machine else RUINED_DB
    aim = ruined + AIM_MORE_DB
    groups = [g for g in planned_groups(graph) if g.sources]
    dynamic = dynamic_inputs(graph)
    count = len(groups) + len(dynamic)
    if not count or ctx.calibration is None or ctx.observe is None or not float_outputs(graph):
        return Harmful({})
    calls = ctx.calibration.deciding[:CALLS]
    whole = ChosenRounding(graph, groups, ctx.observe, calls, logits=False)
    before = _db(whole.noise(np.ones(count, bool)))
    if not before < ruined:
        return Harmful({})
    smooth = whole
    if read_logits(float_outputs(graph)) is not None:
        smooth = ChosenRounding(graph, groups, ctx.observe, calls, logits=True)
    if not _db(smooth.noise(np.ones(count, bool))) < aim:
        return Harmful({})  # a softmax in doubt
    measured, most = 0, max(min(count, MOST_OF_FEW), count // MOST_SHARE)
    limit = 2 * most * count.bit_length()

    def measure(chosen: Chosen) -> F64:
        nonlocal measured
        measured += 1
        ctx.progress("measuring ranges apart", min(measured, limit), limit + 1)
        return smooth.noise(chosen)

    left, worst = np.ones(count, bool), dict[int, F64]()
    for i, alone in worst_first(measure, count, limit):
        worst[i], left[i] = alone, False
        if len(worst) == most or not _db(smooth.noise(left)) < aim:
            break
    after = _db(whole.noise(left))
    if not after >= before + GAIN_DB:
        return Harmful({})
    nodes: dict[str, str] = {}
    for i, alone in worst.items():
        name = groups[i].name if i < len(groups) else dynamic[i - len(groups)].name
        why = f"'{name}' in 8 bits alone would leave {_db(alone):.1f} dB of the outputs"
        readers = _touching(graph, groups[i]) if i < len(groups) else dynamic[i - len(groups)].readers
        nodes |= dict.fromkeys(readers, why)
    return Harmful(nodes, before, after)


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


def _db(noise: F64) -> float:
    """Of the worst output."""
    return float(-10 * np.log10(max(noise.max(), 1e-30)))
