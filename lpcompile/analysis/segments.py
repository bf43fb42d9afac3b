"""Layers in a few segments, so that each segment can be decided with all earlier ones as they will be.

Runs start behind what is settled (`settled_runs`), so that a segment costs little more than loading a part of the
graph. Few segments may be worse than none: layers of one make good for errors that their neighbours mend, too.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.macs import macs, macs_on
from lpcompile.formats.arrays import F64
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.topology import digraph

MOST_MACS = 2e12  # of all runs of one graph, were half of it run for each segment; bounds what is loaded, too
LEAST_SEGMENTS, MOST_SEGMENTS = 4, 64


def segments(graph: LpGraph, layers: Sequence[str], most: int) -> list[list[str]]:
    """Layers in at most `most` segments of similar numbers of multiply-accumulates, in an order of execution.

    A layer depends on no layer of a later segment. Layers that are as far from the inputs as each other, counted in
    layers, do not depend on each other and share a segment.

    Args:
        graph: the float graph.
        layers: names of nodes with constant weights.
        most: number of segments, 1 at least.
    """
    levels = _levels(graph, layers)
    if not levels:
        return []
    costs = _costs(graph, layers)
    ends = _balanced([sum(costs[name] for name in level) for level in levels], most)
    return [[n for level in levels[a:b] for n in level] for a, b in pairwise(ends)]


def affordable_segments(graph: LpGraph, calls: Sequence[Feeds]) -> int:
    """How many segments keep within MOST_MACS on these calls.

    Args:
        graph: the float graph.
        calls: of the model, of which the first tells the shapes.
    """
    work = len(calls) * macs_on(graph, calls[0] if calls else {})
    return int(np.clip(2 * MOST_MACS / max(1, work), LEAST_SEGMENTS, MOST_SEGMENTS))


def _levels(graph: LpGraph, layers: Sequence[str]) -> list[list[str]]:
    """Layers by the number of layers before them on the longest way to them, each level in execution order."""
    view, wanted = digraph(graph), set(layers)
    before: dict[str, int] = {}
    levels: list[list[str]] = []
    for node in graph.nodes():
        name = node.name
        before[name] = max((before[p] + (p in wanted) for p in view.predecessors(name)), default=0)
        if name in wanted:
            if before[name] == len(levels):
                levels.append([])
            levels[before[name]].append(name)
    return levels


def _costs(graph: LpGraph, layers: Sequence[str]) -> dict[str, float]:
    """Multiply-accumulates; where not all are known, all weights count once."""
    nodes = [graph.node(name) for name in layers]
    counts = [macs(n) for n in nodes]
    if None in counts:
        weights = [n.inputs[1] for n in nodes]
        counts = [0 if w is None else int(np.prod(w.dims)) for w in weights]
    return {n.name: float(c or 0) for n, c in zip(nodes, counts, strict=True)}


def _balanced(costs: Sequence[float], most: int) -> list[int]:
    """Ends of at most `most` runs of neighbours, from 0, with the least sum of squared costs."""
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    n = len(costs)
    one: F64 = np.square(sums[None, :] - sums[:, None])
    one[np.tril_indices(n + 1)] = np.inf  # a run is not empty
    best, froms = one[0].copy(), []
    for _ in range(min(most, n) - 1):
        choices = best[:, None] + one
        at = np.where(choices.min(0) < best, choices.argmin(0), -1)  # -1: no better than with fewer runs
        froms.append(at)
        best = np.minimum(best, choices.min(0))
    ends = [n]
    for at in reversed(froms):
        if at[ends[-1]] >= 0:
            ends.append(int(at[ends[-1]]))
    return [0, *reversed(ends)]
