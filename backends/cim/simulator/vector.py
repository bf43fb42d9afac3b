"""The vector unit: FILL, ACC, VOP, VLUT, VRED, VPOOL, VCVT. Sources are read whole before anything is written."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DTYPE_RANGES, Space
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.integers import INT32_HIGH, INT32_LOW, add_into
from lpcompile.backends.cim.simulator.operands import Operand
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.windows import expand

_MOST_SHIFT = 31
_CHUNK = 1 << 16  # int64 of a chunk stay in the cache

Binary = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
_BINARY: dict[int, Binary] = {
    0: np.add,
    1: np.subtract,
    2: np.multiply,
    3: np.maximum,
    4: np.minimum,
    5: np.left_shift,
    6: np.right_shift,
}


def fill(context: Context, operation: Operation) -> Effect:
    """FILL d, #v."""
    d, result = context.write(operation, operation.instruction.a)
    local(operation, d)
    value = (operation.instruction.b + (1 << 15)) % (1 << 16) - (1 << 15)
    low, high = DTYPE_RANGES[d.descriptor.dtype]
    if not low <= value <= high:
        raise operation.fault(f"{value} is no {d.descriptor.dtype}")

    def effect() -> Work:
        result[...] = value
        return work_of(operation, d)

    return effect


def accumulate(context: Context, operation: Operation) -> Effect:
    """ACC a, b."""
    a, sums = context.write(operation, operation.instruction.a)
    b, more = context.read(operation, operation.instruction.b)
    local(operation, a, b)
    equal_counts(operation, a, b)
    if {a.descriptor.dtype, b.descriptor.dtype} != {"i32"}:
        raise operation.fault("ACC adds i32")

    def effect() -> Work:
        values = more.copy()
        if not add_into(sums, values, int(values.min()), int(values.max()), init=False):
            raise operation.fault("a sum leaves the range of int32")
        return work_of(operation, a)

    return effect


def elementwise(context: Context, operation: Operation) -> Effect:
    """VOP d, s1, s2."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    first, a = context.read(operation, word.b)
    second, b = context.read(operation, word.c)
    local(operation, d, first, second)
    equal_counts(operation, d, first, second)
    if word.unit not in _BINARY:
        raise operation.fault(f"there is no function {word.unit}")
    zeros = (first.descriptor.zero, second.descriptor.zero)
    if any(not INT32_LOW < z <= INT32_HIGH for z in zeros):
        raise operation.fault("a zero is not int32")
    if word.unit == 2 and math.prod(_reach(s) for s in (first, second)) >= 1 << 63:
        raise operation.fault("a product may leave the range of int64")
    apply, shifts = _BINARY[word.unit], word.unit >= 5
    low, high = DTYPE_RANGES[d.descriptor.dtype]

    def effect() -> Work:
        wide = [x.astype(np.int64) - z for x, z in zip((a, b), zeros, strict=True)]
        if shifts and (wide[1].min() < 0 or wide[1].max() > _MOST_SHIFT):
            raise operation.fault(f"a shift is not 0 ... {_MOST_SHIFT}")
        found = apply(wide[0], wide[1])
        result[...] = np.clip(found, low, high)
        return work_of(operation, d)

    return effect


def look_up(context: Context, operation: Operation) -> Effect:
    """VLUT d, s, lut."""
    d, result = context.write(operation, operation.instruction.a)
    s, source = context.read(operation, operation.instruction.b)
    local(operation, d, s)
    equal_counts(operation, d, s)
    if (d.descriptor.dtype, s.descriptor.dtype) != ("u8", "u8"):
        raise operation.fault("a table maps u8 to u8")
    number = operation.instruction.c
    luts = context.program.luts
    if not 0 <= number < len(luts) or len(luts[number]) != 256:
        raise operation.fault(f"there is no table {number} of 256 bytes")
    table = np.frombuffer(luts[number], np.uint8)

    def effect() -> Work:
        result[...] = table[source]
        return work_of(operation, d)

    return effect


def reduce(context: Context, operation: Operation) -> Effect:
    """VRED d, s."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    s, source = context.read(operation, word.b)
    local(operation, d, s)
    if d.descriptor.dtype != "i32" or d.descriptor.window or s.descriptor.window:
        raise operation.fault("the destination of VRED is i32, and neither has a window")
    if not s.counts or d.counts not in (s.counts[:-1], (*s.counts[:-1], 1)):
        raise operation.fault(f"the last axis of {s.counts} does not reduce to {d.counts}")
    if word.unit not in (0, 1, 2):
        raise operation.fault(f"there is no function {word.unit}")

    def effect() -> Work:
        if word.unit == 1:
            found = source.max(axis=-1).astype(np.int64)
        elif word.unit == 0:
            found = source.sum(axis=-1, dtype=np.int64)
        else:
            found = _sum_of_squares(source)
        if found.min() < INT32_LOW or found.max() > INT32_HIGH:
            raise operation.fault("a sum leaves the range of int32")
        result[...] = found.reshape(result.shape)
        return work_of(operation, d)

    return effect


def _sum_of_squares(source: NDArray[Any]) -> NDArray[np.int64]:
    # a value beyond 46340 leaves int32 by itself; clipped there it still does, and nothing overflows int64
    wide = np.clip(source.astype(np.int64), -(1 << 16), 1 << 16)
    return np.asarray((wide * wide).sum(axis=-1))


def pool(context: Context, operation: Operation) -> Effect:
    """VPOOL d, s."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    s, source = context.read(operation, word.b)
    local(operation, d, s)
    window = s.descriptor.window
    if window is None or d.descriptor.window is not None:
        raise operation.fault("the source of VPOOL has a window, its destination none")
    shape = context.window_shape(operation, s)
    if word.unit not in (0, 1):
        raise operation.fault(f"there is no function {word.unit}")
    largest = word.unit == 0
    if d.descriptor.dtype != (s.descriptor.dtype if largest else "i32"):
        raise operation.fault(f"{s.descriptor.dtype} does not pool to {d.descriptor.dtype}")
    if d.counts != (*shape.positions, s.counts[-1]):
        raise operation.fault(f"the windows give {(*shape.positions, s.counts[-1])}, not {d.counts}")
    low, high = DTYPE_RANGES[s.descriptor.dtype]
    pad = low if largest else window.pad_value
    if not low <= pad <= high:
        raise operation.fault(f"the pad value {pad} is no {s.descriptor.dtype}")
    axes = tuple(range(len(shape.positions), len(shape.positions) + len(shape.kernel)))
    work = Work(
        d.elements, d.elements * d.item_bytes, positions=math.prod(shape.positions), indices=operation.indices
    )

    def effect() -> Work:
        windows = expand(source, window, pad)
        if largest:
            result[...] = windows.max(axis=axes)
            return work
        found = windows.sum(axis=axes, dtype=np.int64)
        if found.min() < INT32_LOW or found.max() > INT32_HIGH:
            raise operation.fault("a sum leaves the range of int32")
        result[...] = found
        return work

    return effect


def convert(context: Context, operation: Operation) -> Effect:
    """VCVT d, s: convert, pack two 4-bit codes into a byte, unpack them (i8: sign extended)."""
    word = operation.instruction
    d, result = context.write(operation, word.a)
    s, source = context.read(operation, word.b)
    local(operation, d, s)
    if word.unit == 0:
        equal_counts(operation, d, s)
        low, high = DTYPE_RANGES[d.descriptor.dtype]
    elif word.unit in (1, 2):
        whole, packed = (s, d) if word.unit == 1 else (d, s)
        if whole.item_bytes != 1 or packed.item_bytes != 1:
            raise operation.fault("4-bit codes are packed in bytes")
        if not whole.counts or whole.counts != (*packed.counts[:-1], 2 * (packed.counts or (0,))[-1]):
            raise operation.fault(f"codes {whole.counts} do not pack into {packed.counts}")
    else:
        raise operation.fault(f"there is no function {word.unit}")

    def effect() -> Work:
        if word.unit == 0:
            result[...] = np.clip(source.astype(np.int64), low, high)
            return work_of(operation, d)
        data = source.view(np.uint8)
        if word.unit == 1:
            codes = data & np.uint8(15)
            result.view(np.uint8)[...] = codes[..., ::2] | codes[..., 1::2] << np.uint8(4)
            return work_of(operation, d)
        both = np.stack([data & np.uint8(15), data >> np.uint8(4)], axis=-1).reshape(result.shape)
        if d.descriptor.dtype == "i8":
            both = (both ^ np.uint8(8)) - np.uint8(8)
        result.view(np.uint8)[...] = both
        return work_of(operation, d)

    return effect


def local(operation: Operation, *operands: Operand) -> None:
    """Refuse operands of the vector unit that lie outside the local buffer."""
    for operand in operands:
        if operand.descriptor.space != Space.LB:
            raise operation.fault(f"an operand lies in {operand.descriptor.space}, not in the local buffer")


def equal_counts(operation: Operation, *operands: Operand) -> None:
    """Refuse operands of different counts, or with windows."""
    if any(o.counts != operands[0].counts for o in operands):
        raise operation.fault(f"counts differ: {' and '.join(str(o.counts) for o in operands)}")
    if any(o.descriptor.window for o in operands):
        raise operation.fault("an operand has a window")


def work_of(operation: Operation, d: Operand) -> Work:
    """The work of an instruction that writes each element of its destination once."""
    return Work(d.elements, d.elements * d.item_bytes, indices=operation.indices)


def _reach(operand: Operand) -> int:
    low, high = DTYPE_RANGES[operand.descriptor.dtype]
    return max(abs(low - operand.descriptor.zero), abs(high - operand.descriptor.zero))
