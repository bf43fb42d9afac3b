"""Models from files and into files."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from lpcompile.errors import ModelError, OutputError
from lpcompile.ir import export, importer
from lpcompile.ir.dtypes import stored_bytes
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.store import weights_of
from lpcompile.ir.weights import Weights
from lpcompile.ir.wire import cut_weights, with_weights

# Protobuf ends at 2 GiB; the rest of the model needs some of it.
EXTERNAL_ABOVE_BYTES = 1_800_000_000
# Pages, so that a reader can map each tensor by itself.
_ALIGNMENT = 4096
# Small tensors stay in the model: shape inference of other tools needs to see them.
_KEPT_INLINE_BYTES = 1024

_HINT_BROKEN = "export the model again; onnx.checker.check_model tells more"
_HINT_MODEL = "give an ONNX model, written whole by an exporter or onnx.save"


def load(source: str | os.PathLike[str] | bytes | ModelProto) -> LpGraph:
    """Read a model.

    Args:
        source: a path, the bytes of a model, or a proto (which is referred to, not copied).

    Raises:
        ModelError: there is no such file, it is no ONNX model, or the model is damaged.
    """
    try:
        if isinstance(source, ModelProto):
            return LpGraph.from_proto(source)
        return _from_bytes(source, None, own=False) if isinstance(source, bytes) else _from_path(Path(source))
    except ModelError as error:
        error.hint = error.hint or _HINT_BROKEN
        raise


def _from_path(path: Path) -> LpGraph:
    try:
        return _from_bytes(_read(path), path.parent, own=True)
    except ModelError as error:
        if error.where != str(path):
            error.where = str(path) if error.where is None else f"{path}: {error.where}"
        raise


def _read(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file, mapped where that is possible: its weights are copied once, not twice."""
    try:
        if path.is_dir():
            raise ModelError("this is a folder", where=str(path), hint="give the .onnx file inside it")
        with path.open("rb") as file:
            try:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # a pipe, or no byte at all
                return file.read()
    except FileNotFoundError as error:
        raise ModelError(
            "there is no such file", where=str(path), hint="check the path of the model"
        ) from error
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot be read: {detail}", where=str(path), hint="check the path") from error


def _from_bytes(data: bytes | mmap.mmap, base_dir: Path | None, *, own: bool) -> LpGraph:
    """A graph from a serialised model; with `own`, weights are copied out one by one, so that each can go by itself."""
    if not data:
        raise ModelError("the file is empty", hint=_HINT_MODEL)
    rest, weights = cut_weights(data) or (bytes(data), {})
    if own:
        weights = {i: memoryview(bytes(view)) for i, view in weights.items()}
    del data
    proto = ModelProto()
    try:
        proto.ParseFromString(rest)
    except DecodeError as error:
        raise ModelError("this is no ONNX model, or a truncated one", hint=_HINT_MODEL) from error
    graph = LpGraph()
    importer.fill(graph, proto, base_dir, weights)
    return graph


def external_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that the initialisers of a readable model file have in other files; the file is mapped, not read."""
    with Path(path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last view on it
    cut = cut_weights(data)
    rest = bytes(data) if cut is None else cut[0]
    proto = ModelProto.FromString(rest)
    external = (t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    return sum(stored_bytes(t.data_type, math.prod(t.dims)) for t in external)


def save(
    model: LpGraph | ModelProto, path: str | os.PathLike[str], *, threshold_bytes: int = EXTERNAL_ABOVE_BYTES
) -> None:
    """Write a model under a temporary name and rename it; the same model gives the same bytes.

    Args:
        model: graph or proto.
        path: the file; one that exists is replaced.
        threshold_bytes: with more weights than this, they go to one file `<name>.data` beside the model.

    Raises:
        OutputError: not writable, disk full; nothing is left under the final name then.
    """
    path = Path(path)
    if isinstance(model, ModelProto):
        if weight_bytes(model) <= threshold_bytes:
            data = _serialised(model)
            _write_atomically(path, lambda file: file.write(data))
            return
        model = LpGraph.from_proto(model)
    if _weight_bytes(model) <= threshold_bytes:
        graph = model
        _write_atomically(path, lambda file: file.writelines(_pieces(graph)))
        return
    graph, data_path = model, path.with_name(path.name + ".data")
    written: list[ModelProto] = []
    _write_atomically(data_path, lambda file: written.append(_spill(graph, file, data_path.name)))
    _write_atomically(path, lambda file: file.write(_serialised(written[0])))


def shared_weights(
    graph: LpGraph, outputs: Sequence[str] | None = None, *, apart: Collection[str] = ()
) -> tuple[ModelProto, dict[str, NDArray[Any]]]:
    """A proto whose large float weights are named but not held, and those weights where they are: no byte is copied.

    Args:
        graph: it is not changed.
        outputs: tensors to give instead of the graph's own outputs, with no more than they need.
        apart: weights that are not held in the proto however small they are.
    """
    held: dict[str, NDArray[Any]] = {}

    def write(target: TensorProto, name: str, weights: Weights) -> None:
        small = _stays_inline(weights) and name not in apart
        if small or weights.data_type != TensorProto.FLOAT:
            weights.write_to(target, name)
            return
        target.name, target.data_type, target.data_location = name, weights.data_type, TensorProto.EXTERNAL
        target.dims.extend(weights.shape)
        entry = target.external_data.add()
        entry.key, entry.value = "location", "memory"
        held[name] = np.ascontiguousarray(weights.array())

    return export.model_proto(graph, write, outputs), held


def _weight_bytes(graph: LpGraph) -> int:
    store = graph._store
    return sum(weights_of(t).nbytes for t in export.used_constants(store, store.live(), store.outputs))


def weight_bytes(proto: ModelProto) -> int:
    """Bytes of the initialisers that a proto itself holds."""
    held = (t for t in proto.graph.initializer if t.data_location != TensorProto.EXTERNAL)
    return sum(stored_bytes(t.data_type, math.prod(t.dims)) for t in held)


def _serialised(proto: ModelProto) -> bytes:
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise OutputError("the model is too large for one file", hint="lower threshold_bytes") from error
    return data


def _stays_inline(weights: Weights) -> bool:
    return weights.nbytes <= _KEPT_INLINE_BYTES or weights.data_type == TensorProto.STRING


def _pieces(graph: LpGraph) -> Iterator[bytes | memoryview]:
    """The bytes of the model; large weights go from where they are to the file, one at a time."""
    large: dict[int, Weights] = {}
    count = 0

    def write(target: TensorProto, name: str, weights: Weights) -> None:
        nonlocal count
        if _stays_inline(weights) or weights.has_proto:
            weights.write_to(target, name)
        else:
            weights.write_header(target, name)
            large[count] = weights
        count += 1

    return with_weights(_serialised(export.model_proto(graph, write)), large)


def _spill(graph: LpGraph, file: BinaryIO, name: str) -> ModelProto:
    """Write large constants to `file`; the model that refers to them by `name`."""

    def write(target: TensorProto, tensor_name: str, weights: Weights) -> None:
        if _stays_inline(weights):
            weights.write_to(target, tensor_name)
            return
        offset = file.tell()
        if gap := -offset % _ALIGNMENT:
            file.write(bytes(gap))
            offset += gap
        file.write(weights.raw())
        target.name, target.data_type, target.data_location = (
            tensor_name,
            weights.data_type,
            TensorProto.EXTERNAL,
        )
        target.dims.extend(weights.shape)
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(weights.nbytes))):
            entry = target.external_data.add()
            entry.key, entry.value = key, value

    return export.model_proto(graph, write)


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            write(file)  # type: ignore[arg-type]
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
