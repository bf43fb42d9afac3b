"""Reading arrays of samples from `.npz` and `.npy` files without trusting them.

Nothing is unpickled, and sizes are read from the headers before anything is allocated.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from lpcompile.errors import CalibrationError

Arrays = dict[str, np.ndarray]
MOST_BYTES = 16 << 30  # samples are held in memory, so more is a mistake or an attack
_HINT = "write it with numpy.savez(FILE, NAME=array, ...), one array for each input of the model"


def read_npz(path: Path) -> Arrays:
    """The arrays of an `.npz` file by name.

    Raises:
        CalibrationError: not readable, damaged, larger than MOST_BYTES, or it holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            for total in _running_total(archive, members, path):
                _bound(total, path)
            return {m.filename.removesuffix(".npy"): _read_member(archive, m, path) for m in members}
    except (CalibrationError, MemoryError):
        raise
    except Exception as error:  # damaged archives raise a dozen kinds
        raise _unreadable(path, error) from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy` file; the errors are those of `read_npz`."""
    try:
        with path.open("rb") as stream:
            _bound(_declared_bytes(stream, path.name, path), path)
            stream.seek(0)
            return np.asarray(npy.read_array(stream, allow_pickle=False))
    except (CalibrationError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _running_total(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], path: Path) -> Iterator[int]:
    total = 0
    for member in members:
        with archive.open(member) as stream:
            total += _declared_bytes(stream, member.filename, path)
        yield total


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(member) as stream:
        declared = _declared_bytes(stream, member.filename, path)
    if declared > member.file_size:
        raise CalibrationError(
            f"array '{member.filename.removesuffix('.npy')}' is cut off", where=str(path), hint=_HINT
        )
    with archive.open(member) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _declared_bytes(stream: IO[bytes], name: str, path: Path) -> int:
    """Bytes that the header of an `.npy` stream announces."""
    version = npy.read_magic(stream)
    read_header: Any = {(1, 0): npy.read_array_header_1_0}.get(version, npy.read_array_header_2_0)
    shape, _, dtype = read_header(stream)
    itemsize: int = dtype.itemsize
    if dtype.hasobject:
        raise CalibrationError(
            f"array '{name.removesuffix('.npy')}' holds Python objects, which are not loaded",
            where=str(path),
            hint="store plain numbers, for example array.astype('float32')",
        )
    return int(math.prod(shape)) * itemsize


def _bound(total: int, path: Path) -> None:
    if total > MOST_BYTES:
        raise CalibrationError(
            f"the arrays take {total / 2**30:.3g} GiB, more than {MOST_BYTES >> 30} GiB",
            where=str(path),
            hint="a few hundred samples are enough: store fewer",
        )


def _unreadable(path: Path, error: Exception) -> CalibrationError:
    if isinstance(error, OSError) and error.strerror:
        return CalibrationError(f"cannot be read: {error.strerror}", where=str(path), hint=_HINT)
    return CalibrationError("damaged, or not a numpy file", where=str(path), hint=_HINT)
