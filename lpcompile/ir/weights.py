"""The data of a constant: read when asked for, shared by copies of a graph, not copied ahead of need."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from lpcompile.errors import ModelError, PassError
from lpcompile.ir.dtypes import NUMPY_OF_ONNX, ONNX_OF_NUMPY, is_packed, pack, stored_bytes, unpack

# Reads the bytes of a tensor whose data lie outside its proto: (tensor) -> buffer.
Reader = Callable[[TensorProto], memoryview]


class Weights(LazyValues):  # type: ignore[misc]
    """Values of one constant, held as a proto, as a buffer or as an array.

    Attributes:
        data_type: the ONNX element type.
        shape: dimensions.
        nbytes: bytes as stored, known without reading the data.
    """

    def __init__(
        self,
        data_type: int,
        shape: tuple[int, ...],
        *,
        array: NDArray[Any] | None = None,
        proto: TensorProto | None = None,
        raw: bytes | memoryview | None = None,
    ) -> None:
        # The parent's __init__ would want a proto that holds everything; only its type is used.
        self.data_type = data_type
        self.shape = shape
        self._array = array
        self._proto = proto
        self._raw = raw
        self._restore: Callable[[], NDArray[Any]] | None = None
        self._seen: weakref.ref[NDArray[Any]] | None = None

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> "Weights":
        """Wrap an array of any type that ONNX has; it is not copied and must not be written to later."""
        array = np.asarray(array, order="C")
        data_type = ONNX_OF_NUMPY.get(array.dtype)
        if data_type is None:
            if array.dtype.kind not in "US":
                raise PassError(f"ONNX has no element type for dtype {array.dtype}")
            array = array.astype(np.object_)
            data_type = TensorProto.STRING
        view = array.view()
        view.flags.writeable = False
        return cls(data_type, array.shape, array=view)

    @classmethod
    def of_proto(
        cls, proto: TensorProto, reader: Reader | None = None, raw: memoryview | None = None
    ) -> "Weights":
        """Wrap a tensor of a model after checking that its data fit its dimensions.

        Args:
            proto: the tensor; a reference is kept.
            reader: gives the bytes of a tensor with external data; None where there can be none.
            raw: its `raw_data`, where these were cut out of the proto.

        Raises:
            ModelError: unknown type, bad dimensions, or data of another size than the dimensions ask for.
        """
        shape = tuple(proto.dims)
        label = f"initializer {proto.name!r}" if proto.name else "tensor attribute"
        if proto.data_type not in NUMPY_OF_ONNX:
            raise ModelError(f"{label} has the unknown element type {proto.data_type}")
        if any(d < 0 for d in shape) or math.prod(shape) > 2**48:
            raise ModelError(f"{label} has impossible dimensions {list(shape)}")
        if proto.data_location == TensorProto.EXTERNAL:
            if reader is None:
                raise ModelError(
                    f"{label} keeps its data in another file, but the model's folder is not known",
                    hint="load the model by its path, or pass base_dir",
                )
            return cls(proto.data_type, shape, raw=reader(proto))
        _check_size(proto, shape, label, raw)
        return cls(proto.data_type, shape, proto=proto if raw is None else None, raw=raw)

    @property
    def dtype(self) -> np.dtype:
        """Element type as numpy spells it; strings are object."""
        return NUMPY_OF_ONNX[self.data_type]

    @property
    def nbytes(self) -> int:
        """Bytes as stored, packed where the type is narrow."""
        return stored_bytes(self.data_type, math.prod(self.shape))

    @property
    def has_proto(self) -> bool:
        """Whether a proto holds the values already."""
        return self._proto is not None

    def array(self) -> NDArray[Any]:
        """The values, read only; a view wherever the bytes are already in memory or mapped."""
        if self._array is not None:
            return self._array
        # A weak reference: read once while someone looks at it, released when nobody does.
        array = self._seen() if self._seen is not None else None
        if array is None:
            array = self._read()
            array.flags.writeable = False
            self._seen = weakref.ref(array)
        return array

    load = array

    @property
    def released(self) -> bool:
        """Whether the data were let go of, so that reading them is dear."""
        return self._restore is not None

    def release(self, restore: Callable[[], NDArray[Any]]) -> None:
        """Let go of the data; whoever reads them again gets what `restore` makes."""
        self._restore, self._array, self._proto, self._raw = restore, None, None, None

    def raw(self) -> bytes | memoryview:
        """The bytes of `raw_data`; strings have none."""
        if self._raw is not None:
            return self._raw
        if self._proto is not None and self._proto.HasField("raw_data"):
            return self._proto.raw_data
        return pack(self.array(), self.data_type)

    def write_to(self, target: TensorProto, name: str) -> None:
        """Fill an empty tensor proto with these values under a name."""
        if self._proto is not None:
            target.CopyFrom(self._proto)
            target.name = name
            return
        self.write_header(target, name)
        if self.data_type == TensorProto.STRING:
            target.string_data.extend(_encoded(item) for item in self.array().reshape(-1))
        else:
            raw = self.raw()
            target.raw_data = raw if isinstance(raw, bytes) else bytes(raw)

    def write_header(self, target: TensorProto, name: str) -> None:
        """Fill an empty tensor proto with name, type and dimensions, but no data."""
        target.name = name
        target.data_type = self.data_type
        target.dims.extend(self.shape)

    def _read(self) -> NDArray[Any]:
        if self._restore is not None:
            return self._restore()
        if self._raw is not None:
            return unpack(self._raw, self.data_type, self.shape)
        proto = self._proto
        assert proto is not None
        if proto.HasField("raw_data"):
            return unpack(proto.raw_data, self.data_type, self.shape)
        if self.data_type == TensorProto.STRING:
            items = np.empty(len(proto.string_data), np.object_)
            items[:] = [_text(s) for s in proto.string_data]
            return items.reshape(self.shape)
        return np.asarray(onnx.numpy_helper.to_array(proto)).view()

    def __repr__(self) -> str:
        return f"Weights({self.dtype}, {self.shape})"


def tensor_proto(name: str, array: NDArray[Any]) -> TensorProto:
    """An ONNX tensor of an array, packed as its type is stored."""
    proto = TensorProto()
    Weights.of_array(array).write_to(proto, name)
    return proto


_FIELD_OF: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}


def _check_size(proto: TensorProto, shape: tuple[int, ...], label: str, raw: memoryview | None) -> None:
    elements = math.prod(shape)
    if raw is not None or proto.HasField("raw_data"):
        if proto.data_type == TensorProto.STRING:
            raise ModelError(f"{label} is a string tensor with raw data")
        found, unit = len(proto.raw_data if raw is None else raw), "bytes"
        wanted = stored_bytes(proto.data_type, elements)
    else:
        found = len(getattr(proto, _FIELD_OF.get(proto.data_type, "int32_data")))
        unit, wanted = "values", elements
        if proto.data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
            wanted *= 2
        elif is_packed(proto.data_type):
            wanted = stored_bytes(proto.data_type, elements)  # one packed byte a value
    if found != wanted:
        raise ModelError(f"{label} of shape {list(shape)} needs {wanted} {unit} but holds {found}")


def _encoded(item: str | bytes) -> bytes:
    return item.encode() if isinstance(item, str) else item


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
