"""Arrays of samples as calls of the model: batches of the first axis, or one call a row. [architecture 2]."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lpcompile.analysis.inputs import Feeds, InputSpec, check_shape, fit, select
from lpcompile.errors import CalibrationError

BATCH_MOST = 32
BATCH_BYTES = 1 << 20
CALLS_WANTED = 16  # smaller batches where samples are few, so that some calls can be held back


def split_calls(
    arrays: Mapping[str, Any], inputs: Sequence[InputSpec], where: str, labels: str | None = None
) -> list[Feeds]:
    """Arrays with samples on their first axis as calls; views, not copies, where the type fits.

    Args:
        arrays: by name.
        inputs: what the model takes.
        where: for messages.
        labels: an array that is split like the inputs, though the model does not take it.

    Raises:
        CalibrationError: as `load_samples`.
    """
    inputs = [*inputs, *label_spec(arrays, labels, where)]
    chosen = {
        spec.name: fit(a, spec, where)
        for spec, a in zip(inputs, select(arrays, inputs, where).values(), strict=True)
    }
    if not chosen:
        raise CalibrationError(
            "the model takes no input, so it needs no samples", where=where, hint="leave DATA out"
        )
    shared = {s.name for s in inputs if s.shape == () and chosen[s.name].ndim == 0}
    split = [s for s in inputs if s.name not in shared]
    if any(s.shape is not None and chosen[s.name].ndim == len(s.shape) + 1 for s in split):
        size, calls = dict.fromkeys((s.name for s in split), 0), _calls_by_row(chosen, split, where)
    else:
        size, calls = _batches(chosen, split, where)
    feeds = [
        {
            s.name: chosen[s.name] if s.name in shared else _part(chosen[s.name], i, size[s.name])
            for s in inputs
        }
        for i in range(calls)
    ]
    hint = "an array of the input's rank holds batches on its first axis, one of a rank more one call a row"
    for spec in inputs if feeds else ():
        check_shape(feeds[0][spec.name], spec, where, hint)
    return feeds


def label_spec(arrays: Mapping[str, Any], labels: str | None, where: str) -> list[InputSpec]:
    """The array of labels as one more input; [] where none is asked for.

    Raises:
        CalibrationError: there is no such array.
    """
    if labels is None:
        return []
    if labels not in arrays:
        raise CalibrationError(
            f"no array '{labels}' of labels, only: {', '.join(map(str, arrays)) or 'nothing'}",
            where=where,
            hint="name the array with --labels NAME, or tune without labels (the float model's outputs are learned)",
        )
    return [InputSpec(labels, np.asarray(arrays[labels]).dtype, None)]


def _part(array: np.ndarray, i: int, size: int) -> np.ndarray:
    return np.asarray(array[i * size : (i + 1) * size] if size else array[i])


def _calls_by_row(chosen: Mapping[str, np.ndarray], split: Sequence[InputSpec], where: str) -> int:
    for spec in split:
        if spec.shape is not None and chosen[spec.name].ndim != len(spec.shape) + 1:
            check_shape(
                chosen[spec.name],
                spec,
                where,
                "other arrays hold one call a row: give this one a row for each call too",
            )
            raise CalibrationError(
                f"array '{spec.name}' has the rank of its input, while others hold one call a row",
                where=where,
                hint="give every array one axis more, a row for each call",
            )
    return _same_count({s.name: len(chosen[s.name]) for s in split}, where, "rows")


def _batches(
    chosen: Mapping[str, np.ndarray], split: Sequence[InputSpec], where: str
) -> tuple[dict[str, int], int]:
    """Batch size of each input and the number of calls."""
    if not split:
        return {}, 1
    for spec in split:
        if chosen[spec.name].ndim == 0 or (
            spec.shape is not None and chosen[spec.name].ndim != len(spec.shape)
        ):
            check_shape(chosen[spec.name], spec, where)
            raise CalibrationError(
                f"array '{spec.name}' is a scalar", where=where, hint="the first axis counts samples"
            )
    counts = {s.name: len(chosen[s.name]) for s in split}
    fixed = {s.name: s.shape[0] for s in split if s.shape and isinstance(s.shape[0], int) and s.shape[0] > 0}
    if not fixed:
        n = _same_count(counts, where, "samples")
        size = _free_batch(n, sum(chosen[s.name].nbytes for s in split))
        return dict.fromkeys(counts, size), -(-n // size)
    calls = _same_count({k: counts[k] // b for k, b in fixed.items()}, where, "calls", counts)
    free = {k: n // calls for k, n in counts.items() if k not in fixed}
    if len(set(fixed.values())) == 1:
        free = dict.fromkeys(free, next(iter(fixed.values())))
    short = next((k for k, size in free.items() if counts[k] < calls * max(size, 1)), None)
    if short is not None:
        raise CalibrationError(
            f"array '{short}' has {counts[short]} samples for {calls} calls",
            where=where,
            hint="give every array the same number of samples",
        )
    return {**fixed, **free}, calls


def _free_batch(samples: int, total_bytes: int) -> int:
    by_bytes = BATCH_BYTES * samples // max(1, total_bytes)
    return max(1, min(BATCH_MOST, by_bytes, samples // CALLS_WANTED))


def _same_count(
    counts: Mapping[str, int], where: str, what: str, samples: Mapping[str, int] | None = None
) -> int:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{k}: {n}" for k, n in counts.items())
        raise CalibrationError(
            f"the arrays hold different numbers of {what} ({listed})",
            where=where,
            hint="where the first axis is no batch axis, give every array one axis more: one call a row",
        )
    n = next(iter(counts.values()))
    if n == 0:
        few = max((samples or counts).values())
        raise CalibrationError(
            "holds no samples" if few == 0 else f"holds {few} samples, fewer than one batch of the model",
            where=where,
            hint="16 to 64 samples as the model takes them are a good start",
        )
    return n
