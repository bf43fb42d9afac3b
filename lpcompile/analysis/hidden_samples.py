"""Codes of what layers read on the calibration calls: by them side paths find how far their first products reach."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.errors import CalibrationError
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.quant.concat_path import HiddenSample

POSITIONS = 2048  # of all calls; half of them the longest of each call, which reach farthest
_LARGEST_CODE = 255
Reading = tuple[InputReading, ActivationPlan | None]  # without a plan the range is found at run time


def hidden_samples(
    graph: LpGraph,
    readings: Mapping[str, Reading],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, HiddenSample]:
    """Of all calls, one sweep over them; layers whose input is empty in all calls have none.

    Args:
        graph: the float graph.
        readings: by name of the layer, matrix products; those that read alike share a sample.
        observe: opens the graph.
        calls: of the model.
        progress: called with (calls done, total).

    Raises:
        CalibrationError: an activation is not finite.
    """
    keys = {
        name: (reading, plan and (plan.scale, plan.zero_point, plan.code_max))
        for name, (reading, plan) in readings.items()
    }
    different = {key: readings[name] for name, key in keys.items()}
    taken: dict[object, list[tuple[NDArray[np.int16], float]]] = {key: [] for key in different}
    run = observe(graph, list(dict.fromkeys(r.tensor for r, _ in different.values())))
    wanted = -(-POSITIONS // max(1, len(calls)))
    for done, feeds in enumerate(calls):
        values = run(feeds)
        for key, (reading, plan) in different.items():
            x = values[reading.tensor]
            if not np.isfinite(x).all():
                raise CalibrationError(
                    "activation is not finite on the calibration samples",
                    where=reading.tensor,
                    hint="check the samples' preprocessing, or the model itself with 'lpcompile run'",
                )
            if reading.positions(x.shape):
                taken[key].append(_of_call(reading, plan, x, wanted))
        if progress is not None:
            progress(done + 1, len(calls))
    made = {key: _together(parts) for key, parts in taken.items() if parts}
    return {name: made[key] for name, key in keys.items() if key in made}


def _of_call(
    reading: InputReading, plan: ActivationPlan | None, x: np.ndarray, wanted: int
) -> tuple[NDArray[np.int16], float]:
    """Some of its rows, and the scale of their codes."""
    rows = reading.columns(x, np.arange(reading.positions(x.shape)))[0].T
    if plan is None:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / _LARGEST_CODE or 1.0
        zero, most = int(np.clip(np.rint(-low / scale), 0, _LARGEST_CODE)), _LARGEST_CODE
    else:
        scale, zero, most = plan.scale, plan.zero_point, plan.code_max
    if len(rows) > wanted:
        longest = np.argsort(-np.square(rows).sum(axis=1), kind="stable")[: -(-wanted // 2)]
        spread = np.linspace(0, len(rows) - 1, wanted // 2).astype(np.intp)
        rows = rows[np.union1d(longest, spread)]
    return np.clip(np.rint(rows / np.float32(scale)), -zero, most - zero).astype(np.int16), scale


def _together(parts: Sequence[tuple[NDArray[np.int16], float]]) -> HiddenSample:
    codes = np.concatenate([codes for codes, _ in parts])
    return HiddenSample(codes, float(np.sqrt(np.mean([scale**2 for _, scale in parts]))))
