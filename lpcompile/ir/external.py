"""External data: weights in files beside the model, mapped into memory and never trusted."""

import mmap
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from lpcompile.errors import ModelError
from lpcompile.ir.dtypes import stored_bytes

_HINT = "external data must lie in the folder of the model"


class ExternalData:
    """Reads tensors that name a file, an offset and a length.

    Args:
        base_dir: folder of the model; no file outside it is opened.
    """

    def __init__(self, base_dir: Path) -> None:
        self._base = base_dir.resolve()
        self._maps: dict[Path, memoryview] = {}

    def __call__(self, tensor: TensorProto) -> memoryview:
        """The bytes of a tensor, mapped.

        Raises:
            ModelError: the file is missing or outside the folder, or too short for the tensor.
        """
        where = f"initializer {tensor.name!r}"
        if tensor.data_type == TensorProto.STRING:
            raise ModelError("strings cannot be external data", where=where)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        wanted = stored_bytes(tensor.data_type, _elements(tensor))
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or wanted)
        except ValueError as error:
            raise ModelError("external data offset or length is no number", where=where) from error
        location = entries.get("location", "")
        data = self._mapped(location, where)
        if length != wanted:
            raise ModelError(f"needs {wanted} bytes but names {length} in {location!r}", where=where)
        if offset < 0 or offset + length > len(data):
            raise ModelError(
                f"lies at bytes {offset} to {offset + length} of {location!r}, which has {len(data)}",
                hint="the data file is truncated or belongs to another model",
                where=where,
            )
        return data[offset : offset + length]

    def _mapped(self, location: str, where: str) -> memoryview:
        path = self._checked(location, where)
        if path not in self._maps:
            try:
                with path.open("rb") as file:
                    empty = not path.stat().st_size
                    data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ModelError(f"external data file {location!r}: {error.strerror}", where=where) from error
            self._maps[path] = memoryview(data)
        return self._maps[path]

    def _checked(self, location: str, where: str) -> Path:
        # Both spellings, whatever the system: a model made on one must not escape on the other.
        pure = (PurePosixPath(location), PureWindowsPath(location))
        if (
            not location
            or "\0" in location
            or any(p.is_absolute() or p.drive or ".." in p.parts for p in pure)
        ):
            raise ModelError(f"external data location {location!r} is not allowed", hint=_HINT, where=where)
        path = (self._base / location).resolve()
        if not path.is_relative_to(self._base):
            raise ModelError(f"external data location {location!r} leads elsewhere", hint=_HINT, where=where)
        if not path.exists():
            raise ModelError(f"external data file {location!r} is missing", hint=_HINT, where=where)
        if not path.is_file():
            raise ModelError(f"external data location {location!r} is no file", hint=_HINT, where=where)
        return path


def _elements(tensor: TensorProto) -> int:
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    return elements
