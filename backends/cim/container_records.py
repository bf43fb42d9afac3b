"""How the records of a program stand in its binary form: each field once, for writing and for reading.

Everything is a list of integers, which `varints` packs.  Signed ones are zigzag: 0, -1, 1, -2, ...; text is its length
and its code points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from lpcompile.backends.cim.program import (
    DTYPE_BYTES,
    Descriptor,
    DeviceStage,
    Group,
    HostStage,
    Interface,
    PlaneSet,
    Port,
    Requant,
    Space,
    Window,
)
from lpcompile.backends.cim.varints import Cursor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """A way to write a value behind integers, and to read it back; reading raises ProgramError."""

    write: Callable[[list[int], T], None]
    read: Callable[[Cursor], T]


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return -((value + 1) >> 1) if value & 1 else value >> 1


def _write_text(out: list[int], text: str) -> None:
    out.append(len(text))
    out.extend(map(ord, text))


def _read_text(cursor: Cursor) -> str:
    points = cursor.take(cursor.next())
    if any(point > 0x10FFFF or 0xD800 <= point <= 0xDFFF for point in points):
        cursor.refuse("text with what is no character")
    return "".join(map(chr, points))


def _read_flag(cursor: Cursor) -> bool:
    value = cursor.next()
    if value > 1:
        cursor.refuse(f"{value} where 0 or 1 was expected")
    return value == 1


UNSIGNED: Codec[int] = Codec(lambda out, value: out.append(value), lambda cursor: cursor.next())
SIGNED: Codec[int] = Codec(
    lambda out, value: out.append(_zigzag(value)), lambda cursor: _unzigzag(cursor.next())
)
FLAG: Codec[bool] = Codec(lambda out, value: out.append(int(value)), _read_flag)
TEXT: Codec[str] = Codec(_write_text, _read_text)
INTEGERS: Codec[tuple[int, ...]] = Codec(
    lambda out, values: out.extend([len(values), *map(_zigzag, values)]),
    lambda cursor: tuple(map(_unzigzag, cursor.take(cursor.next()))),
)


def many(item: Codec[T]) -> Codec[tuple[T, ...]]:
    """A number, and that many items; every item takes at least one integer."""

    def write(out: list[int], values: Sequence[T]) -> None:
        out.append(len(values))
        for value in values:
            item.write(out, value)

    def read(cursor: Cursor) -> tuple[T, ...]:
        count = cursor.next()
        if count > cursor.left:
            cursor.refuse(f"{count} entries are announced, more than there is room for")
        return tuple([item.read(cursor) for _ in range(count)])

    return Codec(write, read)


def optional(item: Codec[T]) -> Codec[T | None]:
    """0, or 1 and the item."""

    def write(out: list[int], value: T | None) -> None:
        out.append(int(value is not None))
        if value is not None:
            item.write(out, value)

    return Codec(write, lambda cursor: item.read(cursor) if _read_flag(cursor) else None)


def choice(names: Sequence[T]) -> Codec[T]:
    """One of a list, as its number."""

    def read(cursor: Cursor) -> T:
        value = cursor.next()
        if value >= len(names):
            cursor.refuse(f"choice {value} of {len(names)}")
        return names[value]

    return Codec(lambda out, value: out.append(names.index(value)), read)


def pair(first: Codec[Any], second: Codec[Any]) -> Codec[Any]:
    """Two values."""

    def write(out: list[int], value: tuple[Any, Any]) -> None:
        first.write(out, value[0])
        second.write(out, value[1])

    return Codec(write, lambda cursor: (first.read(cursor), second.read(cursor)))


def record(kind: type[T], **codecs: Codec[Any]) -> Codec[T]:
    """A dataclass, all its fields in the order of `codecs`."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if names != set(codecs):
        raise TypeError(f"{kind.__name__}: {sorted(names ^ set(codecs))}")

    def write(out: list[int], value: T) -> None:
        for name, codec in codecs.items():
            codec.write(out, getattr(value, name))

    return Codec(write, lambda cursor: kind(**{name: codec.read(cursor) for name, codec in codecs.items()}))


def _write_dim(out: list[int], dim: int | str | None) -> None:
    if dim is None:
        out.append(0)
    elif isinstance(dim, int):
        out.extend([1, dim])
    else:
        out.append(2)
        TEXT.write(out, dim)


def _read_dim(cursor: Cursor) -> int | str | None:
    kind = cursor.next()
    if kind > 2:
        cursor.refuse(f"unknown kind of axis {kind}")
    return None if kind == 0 else cursor.next() if kind == 1 else TEXT.read(cursor)


DIM: Codec[int | str | None] = Codec(_write_dim, _read_dim)
WINDOW = record(
    Window,
    kernel=INTEGERS, strides=INTEGERS, dilations=INTEGERS, begin=INTEGERS, end=INTEGERS, pad_value=SIGNED,
)  # fmt: skip
DESCRIPTOR = record(
    Descriptor,
    space=choice(tuple(Space)), dtype=choice(tuple(DTYPE_BYTES)), base=UNSIGNED, dims=many(pair(UNSIGNED, SIGNED)),
    levels=INTEGERS, window=optional(WINDOW), bits=UNSIGNED, zero=SIGNED, requant=SIGNED,
)  # fmt: skip
PLANE_SET = record(PlaneSet, name=TEXT, coefficients=INTEGERS)
GROUP = record(
    Group,
    row0=UNSIGNED, rows=UNSIGNED, outputs=UNSIGNED, planes=UNSIGNED, offset=UNSIGNED, first_macro=UNSIGNED,
    across=UNSIGNED, down=UNSIGNED, pages=UNSIGNED, page0=UNSIGNED, block_rows=UNSIGNED, multipliers=FLAG,
    lossless=FLAG, step=INTEGERS,
)  # fmt: skip
REQUANT = record(Requant, m=INTEGERS, b=INTEGERS, k=INTEGERS, zero=SIGNED, low=SIGNED, high=SIGNED)
INTERFACE = record(Interface, name=TEXT, dtype=TEXT, shape=many(DIM))
PORT = record(Port, name=TEXT, dtype=TEXT, shape=many(UNSIGNED), descriptor=UNSIGNED, batch_axis=FLAG)
DEVICE_STAGE = record(DeviceStage, index=UNSIGNED, inputs=many(PORT), outputs=many(PORT))
_HOST_NAMES = pair(many(TEXT), many(TEXT))
_REASONS = many(pair(TEXT, TEXT))


def _write_stage(out: list[int], stage: HostStage | DeviceStage) -> None:
    if isinstance(stage, DeviceStage):
        out.append(0)
        DEVICE_STAGE.write(out, stage)
    else:
        out.append(1)
        _HOST_NAMES.write(out, (stage.inputs, stage.outputs))
        _REASONS.write(out, tuple(sorted(stage.reasons.items())))


def _read_stage(cursor: Cursor) -> HostStage | DeviceStage:
    if not _read_flag(cursor):
        return DEVICE_STAGE.read(cursor)
    inputs, outputs = _HOST_NAMES.read(cursor)
    reasons = _REASONS.read(cursor)
    if list(reasons) != sorted(dict(reasons).items()):
        cursor.refuse("reasons that are not in order")
    return HostStage(b"", inputs, outputs, dict(reasons))


STAGE: Codec[HostStage | DeviceStage] = Codec(_write_stage, _read_stage)
"""A stage; the model of a host stage stands in a section of its own."""
