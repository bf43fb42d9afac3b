"""Codes of what layers read on the calibration calls: by them side paths find how far their first products reach."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.quant.concat_path import WITHIN_PAIRS, HiddenSample
from lpcompile.quant.side_path import LARGEST

POSITIONS = 1024  # of all calls; half of them the longest of each call, which reach farthest
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
                samples = max((len(v) for v in feeds.values() if v.ndim), default=1)
                taken[key].append(_of_call(reading, plan, np.asarray(x, np.float32), wanted, samples))
        if progress is not None:
            progress(done + 1, len(calls))
    reduced = graph.plan.reduce_range
    made = {key: _together(parts, reduce_range=reduced) for key, parts in taken.items() if parts}
    return {name: made[key] for name, key in keys.items() if key in made}


def longest_rows(rows: F32 | NDArray[np.int16], wanted: int) -> NDArray[np.intp]:
    """Which (P, K) rows to keep: half of those wanted are the longest, the rest are spread over all of them."""
    if len(rows) <= wanted:
        return np.arange(len(rows))
    lengths = np.square(rows, dtype=np.float64).sum(axis=1)
    longest = np.argsort(-lengths, kind="stable")[: -(-wanted // 2)]
    return np.union1d(longest, np.linspace(0, len(rows) - 1, wanted // 2).astype(np.intp))


def codes_of_run(x: F32, samples: int) -> tuple[NDArray[np.int16], F64]:
    """Codes, less their zero point, of a tensor whose range is found at run time; and their scales.

    Args:
        x: of a call.
        samples: of the call. Where the first axis counts them, each has the range that it would have alone.
    """
    own = x.ndim > 1 and len(x) == samples
    axes = tuple(range(1, x.ndim)) if own else None
    low, high = (np.asarray(end, np.float64) for end in (x.min(axes, initial=0), x.max(axes, initial=0)))
    scale = np.where(high > low, (high - low) / _LARGEST_CODE, 1.0)
    zero = np.clip(np.rint(-low / scale), 0, _LARGEST_CODE)
    s, z = (v.reshape(-1, *[1] * (x.ndim - 1)) if own else v for v in (scale, zero))
    codes = np.clip(np.rint(x / s), -z, _LARGEST_CODE - z).astype(np.int16)
    return codes, np.atleast_1d(scale)


def _of_call(
    reading: InputReading, plan: ActivationPlan | None, x: F32, wanted: int, samples: int
) -> tuple[NDArray[np.int16], float]:
    """Codes of some rows, and their scale."""
    if plan is None:
        codes, scales = codes_of_run(x, samples)
        scale = float(np.sqrt(np.mean(np.square(scales))))
    else:
        scale, zero = plan.scale, plan.zero_point
        codes = np.clip(np.rint(x / np.float32(scale)), -zero, plan.code_max - zero).astype(np.int16)
    rows = codes.T if reading.transposed else codes.reshape(-1, reading.inputs)
    return rows[longest_rows(rows, wanted)], scale


def _together(parts: Sequence[tuple[NDArray[np.int16], float]], *, reduce_range: bool) -> HiddenSample:
    codes = np.concatenate([codes for codes, _ in parts])
    step = float(np.sqrt(np.mean([scale**2 for _, scale in parts])))
    return HiddenSample(codes, step, WITHIN_PAIRS if reduce_range else LARGEST)
