"""Codes to bytes and back: little-endian within a byte, as ONNX keeps INT4 and INT2 in `raw_data`."""

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import U8


def storage_bits(bits: int) -> int:
    """Bits that a code of `bits` bits takes where stored: 2, 4 or 8."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    per_byte = 8 // storage_bits(bits)
    return -(-count // per_byte)


def pack(codes: U8, bits: int) -> bytes:
    """Codes in C order, the first in the lowest bits of its byte; the last byte is filled with zeros.

    Args:
        codes: any shape, each below 2**bits.
        bits: of a code, 1 to 8; 3 takes 4 bits, 5 to 7 take 8.

    Raises:
        FormatError: a code does not fit.
    """
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise FormatError(f"code {int(flat.max())} does not fit {bits} bits")
    width = storage_bits(bits)
    if width == 8:
        return flat.tobytes()
    per_byte = 8 // width
    if flat.size % per_byte:
        flat = np.concatenate([flat, np.zeros(-flat.size % per_byte, np.uint8)])
    packed = flat[0::per_byte].copy()
    for place in range(1, per_byte):
        packed |= flat[place::per_byte] << np.uint8(place * width)
    return packed.tobytes()


def unpack(data: bytes, bits: int, count: int) -> U8:
    """The first `count` codes of packed bytes, shape (count,).

    Raises:
        FormatError: the data is shorter or longer than `count` codes.
    """
    if len(data) != packed_size(count, bits):
        raise FormatError(
            f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, but {len(data)} are there",
            hint="the file is damaged or its shape is wrong",
        )
    raw = np.frombuffer(data, np.uint8)
    width = storage_bits(bits)
    if width == 8:
        return raw.copy()
    per_byte = 8 // width
    codes = np.empty((raw.size, per_byte), np.uint8)
    for place in range(per_byte):
        codes[:, place] = (raw >> np.uint8(place * width)) & np.uint8((1 << width) - 1)
    return codes.reshape(-1)[:count]
