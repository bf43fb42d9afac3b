"""What the gain of scaled inputs is measured on: calls that chose no factors, and a network planned for it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.grams import THREADS
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, WeightPlan
from lpcompile.quant.fit import fit
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows

WIDE = "int8"
RULE = "mse"
JUDGING_CALLS = 4


def parted(calls: Sequence[Feeds]) -> tuple[list[Feeds], list[Feeds]]:
    """Those that choose factors, and JUDGING_CALLS or a third of all that judge them; a single call does both."""
    if len(calls) < 2:
        return list(calls), list(calls)
    judging = spread(calls, max(1, min(JUDGING_CALLS, len(calls) // 3)))
    return [c for c in calls if not any(c is j for j in judging)], judging


def spread(calls: Sequence[Feeds], most: int) -> list[Feeds]:
    """At most so many of them, evenly spread."""
    at = np.unique(np.linspace(0, len(calls) - 1, min(most, len(calls))).astype(int))
    return [calls[i] for i in at]


def read_on_integers(
    graph: LpGraph,
    readers: Sequence[Sequence[str]],
    plans: Sequence[ActivationPlan],
    kernels: Mapping[str, Kernel],
    weight: WeightPlan,
) -> QuantPlan:
    """A plan of some layers alone: their inputs rounded, and their weights to nearest where 8 bits are planned.

    Fewer bits, to nearest, would lose so much more than they do once they are rounded well that inputs would not count.

    Args:
        graph: float.
        readers: names of layers that read one tensor, for each tensor.
        plans: of each tensor, for layers whose ranges are static.
        kernels: by layer.
        weight: how weights are planned to be stored.
    """
    nodes = [graph.node(name) for names in readers for name in names]
    tensors = dict[str, QuantizedTensor]()
    if weight.format == WIDE:
        # Layers are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            tensors = {n.name: t for n, t in zip(nodes, pool.map(_to_nearest, nodes), strict=True)}
    found = QuantPlan()
    for names, activation in zip(readers, plans, strict=True):
        for name in names:
            layer = LayerPlan(kernel=kernels[name], weight=weight, tensor=tensors.get(name))
            found = found.with_layer(name, layer)
            x = graph.node(name).inputs[0]
            assert x is not None
            if kernels[name] is not Kernel.DYNAMIC:
                found = found.with_activation(x.name, activation)
    return found


def _to_nearest(layer: Node) -> QuantizedTensor:
    weight = layer.inputs[1]
    assert weight is not None
    return fit(to_rows(layer.op, weight.values), resolve(WIDE), rule=RULE)
