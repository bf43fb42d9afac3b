"""VRQ and VADDQ: `clip(((x * m + b) >> k) + zero, low, high)`. [architecture 3.5].

In float64 every step is exact while the sum stays below 2^52: multiplying by 2^-k only moves the exponent, so
`floor(x * (m * 2^-k) + b * 2^-k)` is the arithmetic shift.  Larger sums take int64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DTYPE_RANGES, Requant
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.operands import NUMPY, Operand
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.vector import equal_counts, local

_FLOAT_EXACT = 1 << 52
_INT64 = 1 << 63
_LONG_ROW = 1 << 11
_CHUNK = 1 << 15  # elements at a time: the float64 of a chunk stay in the cache


@dataclass(frozen=True)
class _Table:
    """A requant entry for one range of results.

    Attributes:
        m, b, k: int64, (1,) or (channels,).
        low, high: bounds of the results, those of the destination's dtype included.
        in_float: whether all steps are exact in float64.
    """

    m: NDArray[np.int64]
    b: NDArray[np.int64]
    k: NDArray[np.int64]
    zero: int
    low: int
    high: int
    in_float: bool

    def over(self, shape: tuple[int, int]) -> "_Rows":
        """The entry for an array (positions, channels), short rows joined: a loop over few elements costs most."""
        positions, channels = shape
        joined = max(1, min(positions, _LONG_ROW // max(channels, 1)))
        while positions % joined:
            joined -= 1
        m, b, k = (a if len(a) == 1 else np.tile(a, joined) for a in (self.m, self.b, self.k))
        scale = np.ldexp(1.0, -k.astype(np.int32)).astype(np.float64)
        return _Rows((positions // joined, channels * joined), m, b, k, m * scale, b * scale)


@dataclass(frozen=True)
class _Rows:
    """A requant entry along rows of a shape.

    Attributes:
        shape: of the array.
        m, b, k: int64, (1,) or (row,).
        factor, shift: float64, m and b times 2^-k.
    """

    shape: tuple[int, int]
    m: NDArray[np.int64]
    b: NDArray[np.int64]
    k: NDArray[np.int64]
    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


def requantise(context: Context, operation: Operation) -> Effect:
    """VRQ d, s, rq."""
    d, result = context.write(operation, operation.instruction.a)
    s, source = context.read(operation, operation.instruction.b)
    local(operation, d, s)
    equal_counts(operation, d, s)
    channels = d.counts[-1] if d.counts else 1
    record = _record(context, operation, operation.instruction.c)
    if any(len(part) not in {1, channels} for part in (record.m, record.b, record.k)):
        raise operation.fault(f"requant entry {operation.instruction.c} does not serve {channels} channels")
    table = _table(operation, record, [s], d)
    work = Work(elements=d.elements, bytes=d.elements * d.item_bytes, indices=operation.indices)

    rows = table.over((d.elements // max(channels, 1), channels))

    def effect() -> Work:
        flat = np.ascontiguousarray(source).reshape(rows.shape)
        result[...] = _apply(table, lambda part: flat[part], rows, d).reshape(result.shape)
        return work

    return effect


def requantised_sum(context: Context, operation: Operation) -> Effect:
    """VADDQ d, s1, s2."""
    d, result = context.write(operation, operation.instruction.a)
    first, a = context.read(operation, operation.instruction.b)
    second, b = context.read(operation, operation.instruction.c)
    local(operation, d, first, second)
    equal_counts(operation, d, first, second)
    record = _record(context, operation, d.descriptor.requant)
    if len(record.m) != 2 or len(record.b) != 1 or len(record.k) != 1:
        raise operation.fault("the requant entry is not one of a residual add: m of two, b and k of one")
    table = _table(operation, record, [first, second], d)
    ma, mb = (int(m) for m in record.m)
    width = d.counts[-1] if d.counts else 1
    rows = replace(table, m=np.ones(1, np.int64)).over((d.elements // max(width, 1), width))
    work = Work(elements=d.elements, bytes=d.elements * d.item_bytes, indices=operation.indices)

    def effect() -> Work:
        # |a * ma + b * mb| < 2^48 is exact in both float64 and int64
        kind: Any = np.float64 if table.in_float else np.int64
        flat_a, flat_b = (np.ascontiguousarray(x).reshape(rows.shape) for x in (a, b))

        def mixed(part: slice) -> NDArray[Any]:
            mix: NDArray[Any] = np.multiply(flat_a[part], kind(ma), dtype=kind, casting="unsafe")
            mix += np.multiply(flat_b[part], kind(mb), dtype=kind, casting="unsafe")
            return mix

        result[...] = _apply(table, mixed, rows, d).reshape(result.shape)
        return work

    return effect


def _apply(
    table: _Table,
    source: Callable[[slice], NDArray[Any]],
    rows: _Rows,
    d: Operand,
) -> NDArray[Any]:
    out = np.empty(rows.shape, NUMPY[d.descriptor.dtype])
    step = max(1, _CHUNK // max(rows.shape[1], 1))
    low, high = table.low - table.zero, table.high - table.zero
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        if table.in_float:
            y = np.multiply(source(part), rows.factor, dtype=np.float64)
            y += rows.shift
            # low and high are whole, so to clip before rounding down is the same
            np.maximum(y, low, out=y)
            np.minimum(y, high, out=y)
            if low < 0 or table.zero:  # else the conversion rounds down
                np.floor(y, out=y)
                y += table.zero
            np.copyto(out[part], y, casting="unsafe")
        else:
            wide = source(part).astype(np.int64) * rows.m + rows.b
            wide >>= rows.k
            # before adding zero, which might overflow
            np.clip(wide, low, high, out=wide)
            out[part] = wide + table.zero
    return out


def _record(context: Context, operation: Operation, number: int) -> Requant:
    if not 0 <= number < len(context.program.requants):
        raise operation.fault(f"there is no requant entry {number}")
    return context.program.requants[number]


def _table(operation: Operation, record: Requant, sources: list[Operand], d: Operand) -> _Table:
    low, high = DTYPE_RANGES[d.descriptor.dtype]
    if any(not -(1 << 15) <= m < 1 << 15 for m in record.m) or any(not 0 <= k <= 62 for k in record.k):
        raise operation.fault("a requant factor is not int16, or a shift not 0 ... 62")
    if any(not -(1 << 31) <= v < 1 << 31 for v in (record.zero, record.low, record.high)):
        raise operation.fault("zero, low and high of a requant entry are int32")
    if record.low > record.high:
        raise operation.fault("a requant entry has low above high")
    factors = [max(map(abs, record.m))] if len(sources) == 1 else [abs(m) for m in record.m]
    most = max(map(abs, record.b)) + sum(f * _most(s) for f, s in zip(factors, sources, strict=True))
    if most >= _INT64:
        raise operation.fault("x * m + b may leave the range of int64")
    # saturation to the dtype follows the clip
    first, last = min(max(record.low, low), high), max(min(record.high, high), low)
    return _Table(
        m=np.array(record.m, np.int64),
        b=np.array(record.b, np.int64),
        k=np.array(record.k, np.int64),
        zero=record.zero,
        low=first,
        high=last,
        in_float=most < _FLOAT_EXACT,
    )


def _most(operand: Operand) -> int:
    low, high = DTYPE_RANGES[operand.descriptor.dtype]
    return max(-low, high)
