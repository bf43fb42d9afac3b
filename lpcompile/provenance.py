"""Where a compilation comes from: hashes and sizes of model and data, and errors that name the file."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto

from lpcompile.analysis.calibration import Calibration
from lpcompile.errors import ModelError
from lpcompile.ir import io

Source = str | os.PathLike[str] | bytes | ModelProto


@contextlib.contextmanager
def located(source: Source) -> Iterator[None]:
    """Errors in the model name its file."""
    try:
        yield
    except ModelError as error:
        if isinstance(source, (str, os.PathLike)):
            path = os.fspath(source)
            if error.where is None or not error.where.startswith(path):
                error.where = path if error.where is None else f"{path}: {error.where}"
        raise


def sha256_of(source: Source) -> str:
    """Of the model as it was given."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, ModelProto):
        return hashlib.sha256(source.SerializeToString(deterministic=True)).hexdigest()
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_sha256(calibration: Calibration | None) -> str:
    """Of names, types, shapes and values of all calls; "" without samples."""
    if calibration is None:
        return ""
    digest = hashlib.sha256()
    for feeds in (*calibration.calls, *calibration.copies):
        for name, array in feeds.items():
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return digest.hexdigest()


def model_bytes(source: Source) -> int:
    """Size of the model as it was given; of a file with its external data."""
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, ModelProto):
        size: int = source.ByteSize()
        return size
    return Path(source).stat().st_size + io.external_bytes(source)
