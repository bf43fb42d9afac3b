"""Columns of what layers multiply, on some positions of some calls: for asking what arithmetic does to outputs."""

from collections.abc import Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading, input_reading
from lpcompile.analysis.sampled_columns import sampled_positions
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node

CALLS, POSITIONS = 8, 128  # of each call


def layer_columns(
    graph: LpGraph, layers: Sequence[Node], observe: ObserveGraph, calls: Sequence[Feeds], *, seed: int = 0
) -> dict[str, list[F32]]:
    """By layer, (G, K, P) columns of its input in each call.

    Layers whose products are not known by their inputs have no entry.

    Args:
        graph: float graph.
        layers: whose.
        observe: opens the graph.
        calls: of the model; CALLS of them, evenly spread, are run.
        seed: of the choice of positions.
    """
    read = {n.name: r for n in layers if isinstance(r := input_reading(n), InputReading)}
    if not read or not calls:
        return {}
    run = observe(graph, list(dict.fromkeys(r.tensor for r in read.values())))
    parts: dict[InputReading, list[F32]] = {r: [] for r in read.values()}
    for i in np.linspace(0, len(calls) - 1, min(CALLS, len(calls))).round().astype(int):
        values = run(calls[i])
        for reading, found in parts.items():
            x = values[reading.tensor]
            at = sampled_positions(
                reading.positions(x.shape), POSITIONS, np.random.default_rng([seed, int(i)])
            )
            if len(at):
                found.append(reading.columns(x, at))
    return {name: parts[r] for name, r in read.items() if parts[r]}
