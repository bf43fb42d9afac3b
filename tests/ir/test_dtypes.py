import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from lpcompile.ir.dtypes import NUMPY_OF_ONNX, is_float, pack, stored_bytes, unpack
from lpcompile.ir.weights import Weights, tensor_proto
from tests.support import Array

NARROW = ["INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"]
BYTEWISE = ["FLOAT", "FLOAT16", "BFLOAT16", "INT64", "BOOL", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E8M0"]


@pytest.mark.sweep
@pytest.mark.parametrize("name", NARROW + BYTEWISE)
@settings(max_examples=30)
@given(codes=st.lists(st.integers(1, 15), max_size=9))
def test_packing_is_that_of_onnx(name: str, codes: list[int]) -> None:
    data_type = TensorProto.DataType.Value(name)
    dtype = NUMPY_OF_ONNX[data_type]
    array: Array
    if name in NARROW:
        mask = 3 if name.endswith("INT2") else 15
        array = np.array([c & mask for c in codes], np.uint8).view(dtype)
    else:
        array = np.array(codes, np.int64).astype(dtype)
    raw = pack(array, data_type)
    assert len(raw) == stored_bytes(data_type, array.size)
    # The oracle: ONNX's own reader.
    proto = TensorProto(data_type=data_type, dims=array.shape, raw_data=raw)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto), array)
    np.testing.assert_array_equal(unpack(raw, data_type, array.shape), array)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float4_e2m1fn])
def test_a_packed_constant_reads_back_from_the_proto_onnx_makes(dtype: type) -> None:
    array: Array = np.array([[0, 1, 2], [3, 4, 6]]).astype(dtype)
    proto = onnx.numpy_helper.from_array(array, "w")
    np.testing.assert_array_equal(Weights.of_proto(proto).array(), array)
    assert tensor_proto("w", array).raw_data == proto.raw_data


def test_packed_values_of_the_int32_field() -> None:
    proto = onnx.helper.make_tensor("w", TensorProto.INT4, [3], [1, -2, 7])
    np.testing.assert_array_equal(Weights.of_proto(proto).array().astype(int), [1, -2, 7])


def test_is_float() -> None:
    assert is_float(np.dtype(np.float16))
    assert is_float(np.dtype(ml_dtypes.bfloat16))
    assert is_float(np.dtype(ml_dtypes.float8_e4m3fn))
    assert not is_float(np.dtype(ml_dtypes.int4))
    assert not is_float(np.dtype(np.int8))
    assert not is_float(None)
