"""How well a layer's output survives inputs in FP8, measured on some positions of some samples.

E4M3 keeps four significant bits. That is plenty for centred data, but a layer that takes differences of large
neighbours, as the first convolution of raw pixels does, sees little else than their rounding errors.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading, input_reading
from lpcompile.analysis.rounding_loss import ratio_db
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import FLOAT8_FORMAT, ActivationPlan
from lpcompile.quant.rows import to_rows

CALLS, POSITIONS = 8, 128  # of each call


def in_float8(x: np.ndarray, scale: float) -> F32:
    """The array as FP8 numbers times a power of two; as it is where it is not finite, for who reads it to say."""
    values = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(values).all():
        return values
    fmt = resolve(FLOAT8_FORMAT)
    return fmt.decode(fmt.encode_f32(values, scale)) * np.float32(scale)


def output_sqnr_db(
    graph: LpGraph,
    layers: Sequence[Node],
    plans: Mapping[str, ActivationPlan],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    *,
    seed: int = 0,
) -> dict[str, float | None]:
    """By layer, the variance of its outputs over that of what FP8 inputs change of them, in dB.

    None where nothing changes. Layers whose products are not known by their inputs have no entry.

    Args:
        graph: float graph.
        layers: whose inputs are planned.
        plans: of activations.
        observe: opens the graph.
        calls: of the model.
        seed: of the choice of positions.
    """
    read = {n.name: r for n in layers if isinstance(r := input_reading(n), InputReading)}
    read = {name: r for name, r in read.items() if r.tensor in plans}
    if not read:
        return {}
    run = observe(graph, list(dict.fromkeys(r.tensor for r in read.values())))
    columns: dict[InputReading, list[tuple[F32, F32]]] = {r: [] for r in read.values()}
    for i in np.linspace(0, len(calls) - 1, min(CALLS, len(calls))).round().astype(int):
        values = run(calls[i])
        for reading, found in columns.items():
            x = values[reading.tensor]
            rng = np.random.default_rng([seed, int(i)])
            count = reading.positions(x.shape)
            at = (
                np.arange(count)
                if count <= POSITIONS
                else np.sort(rng.choice(count, POSITIONS, replace=False))
            )
            if len(at):
                taken = reading.columns(x, at)
                found.append((taken, in_float8(taken, plans[reading.tensor].scale)))
    outcomes: dict[str, float | None] = {}
    for node in layers:
        pairs = columns[read[node.name]] if node.name in read else []
        weight = node.inputs[1]
        if pairs and weight is not None:
            x, rounded = (np.concatenate(parts, axis=-1) for parts in zip(*pairs, strict=True))
            rows = to_rows(node.op, weight.values)
            w = rows.reshape(len(x), -1, rows.shape[1]).astype(np.float64)  # squares of large outputs fit
            signal, noise = (
                float(np.sum(np.var(w @ a, axis=-1), dtype=np.float64)) for a in (x, rounded - x)
            )
            outcomes[node.name] = ratio_db(signal, noise)
    return outcomes
