"""ONNX element types as numpy dtypes, and the packed storage of the narrow ones."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

_BY_NAME = {
    "FLOAT": np.float32,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "UINT16": np.uint16,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "STRING": np.object_,
    "BOOL": np.bool_,
    "FLOAT16": np.float16,
    "DOUBLE": np.float64,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "COMPLEX64": np.complex64,
    "COMPLEX128": np.complex128,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "UINT4": ml_dtypes.uint4,
    "INT4": ml_dtypes.int4,
    "FLOAT4E2M1": getattr(ml_dtypes, "float4_e2m1fn", None),
    "FLOAT8E8M0": getattr(ml_dtypes, "float8_e8m0fnu", None),
    "UINT2": getattr(ml_dtypes, "uint2", None),
    "INT2": getattr(ml_dtypes, "int2", None),
}
_PACKED_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
_ENUM: dict[str, int] = dict(TensorProto.DataType.items())

# Older onnx packages and older ml_dtypes know fewer of them; the table holds what both know.
NUMPY_OF_ONNX: dict[int, np.dtype] = {
    _ENUM[name]: np.dtype(kind) for name, kind in _BY_NAME.items() if kind is not None and name in _ENUM
}
ONNX_OF_NUMPY: dict[np.dtype, int] = {dtype: code for code, dtype in NUMPY_OF_ONNX.items()}
_BITS_OF_ONNX = {_ENUM[name]: bits for name, bits in _PACKED_BITS.items() if name in _ENUM}


def is_float(dtype: np.dtype | None) -> bool:
    """Whether `dtype` is a floating-point type, those of ml_dtypes included."""
    return dtype is not None and (
        dtype.kind == "f" or (dtype in ONNX_OF_NUMPY and dtype.name.startswith(("bfloat", "float")))
    )


def is_packed(data_type: int) -> bool:
    """Whether several values of an ONNX type share a byte."""
    return data_type in _BITS_OF_ONNX


def stored_bytes(data_type: int, elements: int) -> int:
    """Bytes that `elements` values of an ONNX type take in `raw_data`; narrow types are packed."""
    bits = _BITS_OF_ONNX.get(data_type)
    if bits is None:
        return elements * NUMPY_OF_ONNX[data_type].itemsize
    return -(-elements * bits // 8)


def pack(array: NDArray[Any], data_type: int) -> bytes:
    """The bytes of `raw_data` for an array: little-endian, the first narrow value in the low bits."""
    bits = _BITS_OF_ONNX.get(data_type)
    if bits is None:
        little = (
            array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "iufc" else array
        )
        return little.tobytes()
    per_byte = 8 // bits
    codes = np.frombuffer(array.tobytes(), np.uint8) & ((1 << bits) - 1)
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, np.uint8)
    padded[: codes.size] = codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    joined = np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1)
    return bytes(joined.astype(np.uint8))


def unpack(raw: bytes | memoryview, data_type: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array in `raw_data`: a view where the type is stored byte by byte, else unpacked."""
    dtype = NUMPY_OF_ONNX[data_type]
    bits = _BITS_OF_ONNX.get(data_type)
    if bits is None:
        return np.frombuffer(raw, dtype).reshape(shape)
    elements = int(np.prod(shape, dtype=np.int64))
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (np.frombuffer(raw, np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    codes = codes.reshape(-1)[:elements]
    if dtype.name.startswith("int"):
        sign = np.uint8(1 << (bits - 1))
        codes = (codes ^ sign) - sign
    return codes.view(dtype).reshape(shape)
