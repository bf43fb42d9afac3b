"""Codes to bytes and back, dense: little-endian, as ONNX keeps INT4 and INT2 in `raw_data`.

A word is the least whole number of bytes that whole codes fill: 3 bytes hold eight codes of 3 bits or four of 6,
5 bytes eight of 5 bits, 7 bytes eight of 7. The last word is filled with zeros.
"""

from math import lcm

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import U8


def word_bytes(bits: int) -> int:
    """Bytes of a word of codes of `bits` bits, 1 to 8."""
    return lcm(bits, 8) // 8


def codes_of_word(bits: int) -> int:
    """Codes that a word holds."""
    return lcm(bits, 8) // bits


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count // codes_of_word(bits)) * word_bytes(bits)


def pack(codes: U8, bits: int) -> bytes:
    """Codes in C order, the first in the lowest bits of its word.

    Args:
        codes: any shape, each below 2**bits.
        bits: of a code, 1 to 8.

    Raises:
        FormatError: a code does not fit.
    """
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise FormatError(f"code {int(flat.max())} does not fit {bits} bits")
    if bits == 8:
        return flat.tobytes()
    held, size = codes_of_word(bits), word_bytes(bits)
    if flat.size % held:
        flat = np.concatenate([flat, np.zeros(-flat.size % held, np.uint8)])
    number = np.uint8 if size == 1 else np.dtype("<u8")
    words = np.zeros(flat.size // held, number)
    for place in range(held):
        words |= flat[place::held].astype(number) << words.dtype.type(place * bits)
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, words.itemsize)[:, :size]).tobytes()


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
    if bits == 8:
        return raw.copy()
    held, size = codes_of_word(bits), word_bytes(bits)
    words = raw
    if size > 1:
        wide = np.zeros((raw.size // size, 8), np.uint8)
        wide[:, :size] = raw.reshape(-1, size)
        words = wide.view("<u8").reshape(-1)
    codes = np.empty((words.size, held), np.uint8)
    for place in range(held):
        codes[:, place] = (words >> words.dtype.type(place * bits)) & words.dtype.type((1 << bits) - 1)
    return codes.reshape(-1)[:count]
