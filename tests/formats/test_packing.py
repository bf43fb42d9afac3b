import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from onnx import TensorProto, helper, numpy_helper

from lpcompile.errors import FormatError
from lpcompile.formats.packing import pack, packed_size, unpack


@given(st.integers(1, 8), st.data())
def test_round_trip(bits: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=33)), np.uint8)
    packed = pack(codes, bits)
    assert len(packed) == packed_size(codes.size, bits)
    whole = {1: 8, 2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 7: 8, 8: 1}[bits]  # codes of a word
    assert len(packed) == -(-codes.size // whole) * whole * bits // 8
    assert np.array_equal(unpack(packed, bits, codes.size), codes)


def test_the_first_code_is_in_the_lowest_bits() -> None:
    assert pack(np.array([[1, 2], [3, 0xF]], np.uint8), 4) == bytes([0x21, 0xF3])
    assert pack(np.array([1, 2, 3, 0, 2], np.uint8), 2) == bytes([0b00111001, 0b10])
    assert pack(np.array([1, 2, 3, 4], np.uint8), 6) == (1 | 2 << 6 | 3 << 12 | 4 << 18).to_bytes(3, "little")


@given(st.sampled_from([2, 3, 5, 6, 7]), st.data())
def test_words_are_numbers_in_base_two_to_the_bits(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40))
    number = sum(c << (bits * i) for i, c in enumerate(codes))
    packed = pack(np.array(codes, np.uint8), bits)
    assert int.from_bytes(packed, "little") == number


@pytest.mark.parametrize("kind", [TensorProto.UINT4, TensorProto.INT4])
def test_nibbles_as_onnx_stores_them(kind: int) -> None:
    codes = np.array([3, 15, 0, 8, 9], np.uint8)
    tensor = helper.make_tensor("t", kind, [5], pack(codes, 4), raw=True)
    values = numpy_helper.to_array(tensor).astype(int)
    assert (values % 16).tolist() == codes.tolist()


def test_a_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FormatError, match="code 16 does not fit 4 bits"):
        pack(np.array([16], np.uint8), 4)


@pytest.mark.parametrize("length", [1, 3])
def test_damaged_data_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="3 codes of 4 bits take 2 bytes"):
        unpack(bytes(length), 4, 3)
