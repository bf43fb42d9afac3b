"""Feeds and results of commands that run a model."""

import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.inputs import Feeds, InputSpec, check_shape, fit, select
from lpcompile.analysis.sample_files import read_npz
from lpcompile.analysis.samples import load_samples, random_feeds
from lpcompile.errors import OutputError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal results are equal files


def feeds_of_one_call(path: Path, inputs: Sequence[InputSpec]) -> Feeds:
    """The arrays of an `.npz` file, whole, as the feeds of one call.

    Raises:
        CalibrationError: unreadable, or names, shapes, types or values do not fit.
    """
    where = str(path)
    chosen = select(read_npz(path), inputs, where)
    feeds = {spec.name: fit(chosen[spec.name], spec, where) for spec in inputs}
    for spec in inputs:
        check_shape(feeds[spec.name], spec, where)
    return feeds


def calls_of(
    inputs: Sequence[InputSpec],
    *,
    feeds: Path | None,
    data: str | None,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Sequence[Feeds], str]:
    """The calls that the options ask for, and where they come from in words."""
    if feeds is not None:
        return [feeds_of_one_call(feeds, inputs)], str(feeds)
    if data is not None:
        calibration: Calibration = load_samples(data, inputs)
        return calibration.calls, data
    return [random_feeds(inputs, seed, shapes)], f"random feeds, seed {seed}"


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], *, force: bool) -> None:
    """Write arrays under a temporary name and rename it.

    Raises:
        OutputError: the file exists and `force` is not set, or it cannot be written.
    """
    if path.exists() and not force:
        raise OutputError("the file exists", where=str(path), hint="overwrite it with --force")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
                for key, array in arrays.items():
                    with archive.open(zipfile.ZipInfo(f"{key}.npy", _EPOCH), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, _storable(array), allow_pickle=False)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        hint = "choose another place with --output"
        raise OutputError(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error


def _storable(array: np.ndarray) -> np.ndarray:
    return (
        array.astype(np.str_) if array.dtype == object else np.ascontiguousarray(array).reshape(array.shape)
    )


def tensor_rows(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, object]]:
    """Name, type, shape, and for numbers the extremes and the mean of each array."""
    for name, array in arrays.items():
        row: dict[str, object] = {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
        numbers = array.dtype != object and array.size > 0
        values = array.astype(np.float64) if numbers else None
        with np.errstate(all="ignore"):  # NaN and infinity are told of by "finite"
            row |= {
                "min": None if values is None else float(values.min()),
                "max": None if values is None else float(values.max()),
                "mean": None if values is None else float(values.mean()),
                "finite": True if values is None else bool(np.isfinite(values).all()),
            }
        yield row
