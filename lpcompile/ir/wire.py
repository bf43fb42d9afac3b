"""Weights cut out of a serialised model, or put into one, so that protobuf never copies them.

A model is a protobuf message: `ModelProto.graph` (7) holds `GraphProto.initializer` (5) holds
`TensorProto.raw_data` (9). Large `raw_data` stay where they are, as views on the file's bytes; the rest,
usually some kilobytes, is what protobuf parses. [https://protobuf.dev/programming-guides/encoding]
"""

import mmap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lpcompile.ir.weights import Weights

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Below this a tensor is not worth a view.
_SMALLEST_CUT_BYTES = 4096


class _Field(NamedTuple):
    """One field of a message: its number, and where its tag, its value and its end are."""

    number: int
    start: int
    value: int
    end: int


def cut_weights(data: bytes | mmap.mmap) -> tuple[bytes, dict[int, memoryview]] | None:
    """Split a serialised model.

    Returns:
        The message without the large `raw_data`, and these by index of their initialiser; None where the
        message is not of the usual form, so that protobuf itself must judge it.
    """
    view = memoryview(data)
    try:
        top = list(_fields(view, 0, len(view)))
        graphs = [f for f in top if f.number == _GRAPH]
        if len(graphs) != 1:
            return None
        graph, cuts = _without_weights(view, graphs[0])
    except (IndexError, ValueError):
        return None
    pieces: list[bytes | memoryview] = [view[: graphs[0].start], _tag(_GRAPH, len(graph)), graph]
    return b"".join([*pieces, view[graphs[0].end :]]), cuts


def with_weights(rest: bytes, weights: Mapping[int, Weights]) -> Iterator[bytes | memoryview]:
    """Pieces of a serialised model: the inverse of `cut_weights`, byte for byte what protobuf would write.

    Args:
        rest: a model as protobuf serialises it, whose initialisers lack `raw_data`.
        weights: what they lack, by index; read one at a time, when its piece is due.
    """
    view = memoryview(rest)
    graph = next(f for f in _fields(view, 0, len(view)) if f.number == _GRAPH)
    initializers = [f for f in _fields(view, graph.value, graph.end) if f.number == _INITIALIZER]
    heads, sizes = {}, graph.end - graph.value
    for i, data in weights.items():
        field = initializers[i]
        head = _tag(_RAW_DATA, data.nbytes)
        outer = _tag(_INITIALIZER, field.end - field.value + len(head) + data.nbytes)
        heads[i] = (outer, head)
        sizes += len(outer) - (field.value - field.start) + len(head) + data.nbytes
    yield view[: graph.start]
    yield _tag(_GRAPH, sizes)
    written = graph.value
    for i in sorted(weights):
        field = initializers[i]
        # Fields are written by number, so `raw_data` goes before the first one with a larger number.
        later = (f.start for f in _fields(view, field.value, field.end) if f.number > _RAW_DATA)
        at = next(later, field.end)
        outer, head = heads[i]
        yield view[written : field.start]
        yield outer
        yield view[field.value : at]
        yield head
        yield weights[i].raw()
        written = at
    yield view[written:]


def _without_weights(view: memoryview, graph: _Field) -> tuple[bytes, dict[int, memoryview]]:
    pieces: list[bytes | memoryview] = []
    cuts: dict[int, memoryview] = {}
    index, copied = 0, graph.value
    for field in _fields(view, graph.value, graph.end):
        if field.number != _INITIALIZER:
            continue
        if field.end - field.value >= _SMALLEST_CUT_BYTES:
            raw = [f for f in _fields(view, field.value, field.end) if f.number == _RAW_DATA]
            if len(raw) == 1 and raw[0].end - raw[0].value >= _SMALLEST_CUT_BYTES:
                cuts[index] = view[raw[0].value : raw[0].end]
                rest = bytes(view[field.value : raw[0].start]) + bytes(view[raw[0].end : field.end])
                pieces += [view[copied : field.start], _tag(_INITIALIZER, len(rest)), rest]
                copied = field.end
        index += 1
    pieces.append(view[copied : graph.end])
    return b"".join(pieces), cuts


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    """Fields of the message in `view[start:end]`; ValueError or IndexError where there is none."""
    at = start
    while at < end:
        tag, value = _varint(view, at)
        kind = tag & 7
        if kind == _VARINT:
            _, stop = _varint(view, value)
        elif kind == _BYTES:
            size, value = _varint(view, value)
            stop = value + size
        elif kind in {_FIXED32, _FIXED64}:
            stop = value + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("a field ends after its message")
        yield _Field(tag >> 3, at, value, stop)
        at = stop


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _tag(number: int, size: int) -> bytes:
    """Head of a length-delimited field."""
    out = bytearray([number << 3 | _BYTES])
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
