"""DATA, in any of its forms, as calls of the model. [architecture 2].

==========================  ==================================================================================
`.npz`                      arrays named after the inputs, first axis = samples
a directory                 such files in order of their names, or one `.npy` an input
`package.module:attribute`  an iterable of {input: array}, an object with `get_next()`, or a callable for one
Python                      the same objects; a mapping of arrays is read like an `.npz`
==========================  ==================================================================================

An array with the input's own rank is split along its first axis into batches; when one has a rank more, every
array holds one call a row. A scalar stands for all calls.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.imported import imported, is_reference
from lpcompile.analysis.inputs import Feeds, InputSpec, check_shape, fit, random_feeds, select
from lpcompile.analysis.sample_calls import label_spec, split_calls
from lpcompile.analysis.sample_files import MOST_BYTES, read_npy, read_npz
from lpcompile.errors import CalibrationError, LpcompileError

__all__ = ["InputSpec", "load_samples", "random_feeds"]

_FORMS = "DATA is an .npz file, a folder of .npz or .npy files, or package.module:attribute"


def load_samples(data: Any, inputs: Sequence[InputSpec], labels: str | None = None) -> Calibration:
    """Samples as calls of the model.

    Args:
        data: DATA as above.
        inputs: what the model takes.
        labels: name of an array of labels, first axis samples, that comes with the inputs; None: none is read.

    Raises:
        CalibrationError: unreadable, or names, shapes, types or values do not fit, or there is no sample.
    """
    if isinstance(data, Calibration):
        return data
    if isinstance(data, (str, os.PathLike)):
        return _from_text(os.fspath(data), inputs, labels)
    source = f"python {type(data).__name__}"
    return _calibration(_from_object(data, inputs, "calibration", labels), inputs, source, labels)


def _calibration(
    calls: list[Feeds], inputs: Sequence[InputSpec], source: str, labels: str | None
) -> Calibration:
    meant = any(0 in (spec.shape or ()) for spec in inputs)
    for i, call in enumerate(calls):  # one empty array may be what a decoder has seen before its first token
        if call and not meant and not any(a.size for name, a in call.items() if name != labels):
            raise CalibrationError(
                f"call {i} holds no sample", where=source, hint="leave out calls of batch 0"
            )
    if labels is None:
        return Calibration(calls, source)
    found = [c[labels] for c in calls]
    return Calibration([{k: a for k, a in c.items() if k != labels} for c in calls], source, labels=found)


def _from_text(text: str, inputs: Sequence[InputSpec], labels: str | None) -> Calibration:
    path = Path(text)
    if path.is_dir():
        calls = _from_folder(path, inputs, labels)
    elif path.exists():
        arrays = _nameless([path], inputs) if path.suffix == ".npy" else read_npz(path)
        calls = split_calls(arrays, inputs, text, labels)
    elif is_reference(text):
        calls = _from_object(imported(text, CalibrationError), inputs, text, labels)
    else:
        raise CalibrationError("there is no such file or folder", where=text, hint=_FORMS)
    return _calibration(calls, inputs, text, labels)


def _from_folder(path: Path, inputs: Sequence[InputSpec], labels: str | None) -> list[Feeds]:
    archives, arrays = sorted(path.glob("*.npz")), sorted(path.glob("*.npy"))
    if archives:
        return [call for file in archives for call in split_calls(read_npz(file), inputs, str(file), labels)]
    if not arrays:
        raise CalibrationError("the folder holds no .npz and no .npy file", where=str(path), hint=_FORMS)
    by_stem = {_file_stem(spec.name): spec.name for spec in inputs}
    if len(inputs) == 1 and not any(f.stem in by_stem for f in arrays):
        return [call for f in arrays for call in split_calls(_nameless([f], inputs), inputs, str(f), labels)]
    named = {by_stem.get(f.stem, f.stem): read_npy(f) for f in arrays}
    return split_calls(named, inputs, str(path), labels)


def _file_stem(name: str) -> str:
    return name.replace("/", "_").replace(":", "_") if "/" in name else name


def _nameless(files: Sequence[Path], inputs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
    """One `.npy` file for a model of one input, whatever it is called."""
    if len(inputs) != 1:
        raise CalibrationError(
            f"one .npy file, but the model takes {len(inputs)} inputs",
            where=str(files[0]),
            hint=f"use an .npz file with arrays named {', '.join(s.name for s in inputs)}",
        )
    return {inputs[0].name: read_npy(files[0])}


def _from_object(data: Any, inputs: Sequence[InputSpec], where: str, labels: str | None) -> list[Feeds]:
    if isinstance(data, np.ndarray) and len(inputs) == 1:
        data = {inputs[0].name: data}
    try:
        if not _gives_samples(data) and callable(data):
            data = data()
        if isinstance(data, Mapping):
            return split_calls(data, inputs, where, labels)
        calls = _bounded(_iterate(data, where), inputs, where, labels)
    except LpcompileError:
        raise
    except Exception as error:  # user code: whatever it raises
        raise CalibrationError(
            f"failed while giving samples: {type(error).__name__}: {error}", where=where, hint=_FORMS
        ) from error
    if not calls:
        raise CalibrationError(
            "gives no samples", where=where, hint="an iterator that was read before is empty"
        )
    return calls


def _gives_samples(data: Any) -> bool:
    return not isinstance(data, type) and (hasattr(data, "get_next") or isinstance(data, Iterable))


def _iterate(data: Any, where: str) -> Iterator[Any]:
    if hasattr(data, "get_next"):
        next_call: Callable[[], Any] = data.get_next
        return iter(next_call, None)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return iter(data)
    raise CalibrationError(f"a {type(data).__name__} gives no samples", where=where, hint=_FORMS)


def _bounded(
    items: Iterator[Any], inputs: Sequence[InputSpec], where: str, labels: str | None
) -> list[Feeds]:
    calls: list[Feeds] = []
    total = 0
    for item in items:
        here = f"{where}, call {len(calls)}"
        if not isinstance(item, Mapping):
            raise CalibrationError(
                f"a {type(item).__name__}, not a mapping of input names to arrays",
                where=here,
                hint=f"give {{{inputs[0].name!r}: array, ...}} for each call" if inputs else _FORMS,
            )
        wanted = [*inputs, *label_spec(item, labels, here)]
        chosen = select(item, wanted, here)
        call = {s.name: fit(chosen[s.name], s, here) for s in wanted}
        for spec in wanted:
            check_shape(call[spec.name], spec, here)
        calls.append(call)
        total += sum(a.nbytes for a in call.values())
        if total > MOST_BYTES:
            raise CalibrationError(
                f"gives more than {MOST_BYTES >> 30} GiB of samples",
                where=where,
                hint="let the iterator end earlier",
            )
    return calls
