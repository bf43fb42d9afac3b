"""How far the first sums of side paths, `sum a8 (x - zero)` over codes of x, get on the calibration calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F64, I8
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan

_LARGEST_CODE = 255


@dataclass(frozen=True, slots=True)
class PathInput:
    """What a path reads.

    Attributes:
        reading: of the layer.
        plan: of the tensor; None: its range is found at run time.
        a: (r, K) int8.
    """

    reading: InputReading
    plan: ActivationPlan | None
    a: I8


@dataclass(frozen=True, slots=True)
class HiddenReach:
    """What is known of the first sums of a path.

    Attributes:
        most: (r,) largest magnitude.
        power: (r,) mean square.
        step: root mean square of the scale of x.
    """

    most: F64
    power: F64
    step: float


def hidden_reach(
    graph: LpGraph,
    paths: Mapping[str, PathInput],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, HiddenReach]:
    """Of all calls, one sweep over them; paths whose input is empty in all calls have none.

    Args:
        graph: the float graph.
        paths: by name of the layer.
        observe: opens the graph.
        calls: of the model.
        progress: called with (calls done, total).

    Raises:
        CalibrationError: an activation is not finite.
    """
    seen: dict[str, list[tuple[F64, F64, int, float]]] = {name: [] for name in paths}
    run = observe(graph, list(dict.fromkeys(p.reading.tensor for p in paths.values())))
    for done, feeds in enumerate(calls):
        values = run(feeds)
        for name, path in paths.items():
            if part := _of_call(values[path.reading.tensor], path):
                seen[name].append(part)
        if progress is not None:
            progress(done + 1, len(calls))
    return {name: _together(parts) for name, parts in seen.items() if parts}


def _of_call(x: np.ndarray, path: PathInput) -> tuple[F64, F64, int, float] | None:
    positions = path.reading.positions(x.shape)
    if not positions:
        return None
    if not np.isfinite(x).all():
        raise CalibrationError(
            "activation is not finite on the calibration samples",
            where=path.reading.tensor,
            hint="check the samples' preprocessing, or the model itself with 'lpcompile run'",
        )
    columns = path.reading.columns(x, np.arange(positions))[0]
    if path.plan is None:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / _LARGEST_CODE or 1.0
        zero = int(np.clip(np.rint(-low / scale), 0, _LARGEST_CODE))
        most = _LARGEST_CODE
    else:
        scale, zero, most = path.plan.scale, path.plan.zero_point, path.plan.code_max
    codes = np.clip(np.rint(columns / np.float32(scale)), -zero, most - zero)
    sums = path.a.astype(np.float32) @ codes
    power = np.square(sums, dtype=np.float64).sum(axis=1)
    return np.abs(sums).max(axis=1).astype(np.float64), power, positions, scale


def _together(parts: Sequence[tuple[F64, F64, int, float]]) -> HiddenReach:
    most = np.max([p[0] for p in parts], axis=0)
    power = np.sum([p[1] for p in parts], axis=0) / sum(p[2] for p in parts)
    return HiddenReach(most, power, float(np.sqrt(np.mean([p[3] ** 2 for p in parts]))))
