"""Second moments of the inputs of layers, E[x_k^2], for every one of the K products of an output."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node


def input_moments(
    graph: LpGraph,
    observe: Callable[[LpGraph, Sequence[str]], RunFeeds],
    calls: Sequence[Feeds],
    layers: Sequence[Node],
) -> dict[str, NDArray[np.float32]]:
    """E[x_k^2] of each layer, (K,), in one sweep. For Conv a channel's moment stands for all kernel positions.

    Grouped convolutions see different channels in different groups; their rows share the mean over groups.
    """
    wanted = {n.name: n.inputs[0].name for n in layers if n.inputs[0] is not None and n.op != "ConvTranspose"}
    if not wanted:
        return {}
    names = list(dict.fromkeys(wanted.values()))
    axes = {n.inputs[0].name: 1 if n.op == "Conv" else -1 for n in layers if n.inputs[0] is not None}
    run = observe(graph, names)
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}
    for feeds in calls:
        values = run(feeds)
        for name in names:
            x = np.moveaxis(values[name], axes[name], -1)
            flat = x.reshape(-1, x.shape[-1])
            sums[name] = sums.get(name, 0) + np.einsum("ij,ij->j", flat, flat, dtype=np.float64)
            counts[name] = counts.get(name, 0) + len(flat)
    found = {}
    for node in layers:
        if node.name not in wanted:
            continue
        moment = sums[wanted[node.name]] / max(1, counts[wanted[node.name]])
        weight = node.inputs[1]
        assert weight is not None
        if node.op == "Conv":
            group = int(node.attrs.get("group", 1))
            per_group = moment.reshape(group, -1).mean(0)
            moment = np.repeat(per_group, int(np.prod(weight.values.shape[2:])))
        found[node.name] = moment.astype(np.float32)
    return found
