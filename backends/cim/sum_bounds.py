"""No accumulator leaves int32, no requantisation int64: bounds of all values, instruction by instruction.

Bounds come from weights, bits of inputs, clips of requantisation and constants; no data is run.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lpcompile.backends.cim.program import DTYPE_RANGES, INIT, Port, Program, Window
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.operands import Operand, Operands
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.stored_weights import GroupBounds, column_bounds
from lpcompile.backends.cim.value_ranges import RangeMemory, ValueRange

INT32 = DTYPE_RANGES["i32"]
_PROVEN = 1 << 62
_FLOAT = 1 << 52

Report = Callable[[Operation, str], None]


@dataclass
class SumBounds:
    """Follows the ranges of values through a program.

    Attributes:
        sums: instructions with an int32 result that were bounded.
        largest_sum: the largest absolute bound of an accumulator.
        requantisations: VRQ and VADDQ instructions.
        requantisations_in_float: those of them with all of `x * m + b` below 2^52, which float64 holds.
    """

    program: Program
    capacities: Capacities
    operands: Operands
    groups: GroupBounds
    report: Report
    sums: int = 0
    largest_sum: int = 0
    requantisations: int = 0
    requantisations_in_float: int = 0
    _messages: dict[tuple[int, int, int], deque[ValueRange]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def __post_init__(self) -> None:
        self.memory = RangeMemory(self.program, self.capacities)

    def port(self, port: Port) -> None:
        """An input of a device stage may be anything."""
        descriptor = self.program.descriptors[port.descriptor]
        self.memory.forget(self.operands.checked(descriptor, descriptor.base, writes=True), 0)

    def follow(self, operation: Operation) -> None:
        """Bound what one operation writes."""
        word, core = operation.instruction, operation.core
        name = word.mnemonic
        if name == "SEND":
            sent = self._read(operation, word.a)[1]
            self._messages[core, word.b, word.c].append(sent)
        elif name == "RECV":
            waiting = self._messages[word.b, core, word.c]
            d = self.operands.resolve(operation, word.a, writes=True)
            got = waiting.popleft() if waiting else ValueRange.any(d.descriptor.dtype)
            self.memory.write(d, core, ValueRange(got.low, got.high))
        elif name in ("MVM", "MVMP"):
            self._multiply(operation)
        elif name in ("VMM", "VDW"):
            self._dense(operation)
        elif name in _RESULTS:
            d = self.operands.resolve(operation, word.a, writes=True)
            self.memory.write(d, core, _RESULTS[name](self, operation, d))

    def _read(self, operation: Operation, number: int) -> tuple[Operand, ValueRange]:
        operand = self.operands.resolve(operation, number)
        return operand, self.memory.read(operand, operation.core)

    def _sum(self, operation: Operation, d: Operand, low: int, high: int) -> ValueRange:
        """Bounds of an int32 result; reports those that do not fit."""
        self.sums += 1
        self.largest_sum = max(self.largest_sum, -low, high)
        if low < INT32[0] or high > INT32[1]:
            self.report(operation, f"a sum may reach {low if -low > high else high}, beyond int32")
        return ValueRange(max(low, INT32[0]), min(high, INT32[1]))

    def _accumulated(self, operation: Operation, number: int, low: int, high: int) -> None:
        d = self.operands.resolve(operation, number, writes=True)
        word = operation.instruction
        if not (word.flags & INIT and not (operation.indices and operation.indices[0])):
            before = self.memory.read(d, operation.core)
            low, high = low + before.low, high + before.high
        self.memory.write(d, operation.core, self._sum(operation, d, low, high))

    def _multiply(self, operation: Operation) -> None:
        word = operation.instruction
        number, _ = self.operands.group(operation)
        x, seen = self._read(operation, word.b)
        low, high = _with_pads(seen, x.descriptor.window)
        single = word.mnemonic == "MVMP"
        bits = 8 if x.descriptor.dtype == "i8" else x.descriptor.bits
        whole = (-128, 127) if x.descriptor.dtype == "i8" else (0, (1 << bits) - 1)
        if low < whole[0] or high > whole[1]:  # the planes hold no more than that
            low, high = whole
        least, most = self.groups.sums(
            number, *((0, 1) if single else (low, high)), 1 if single else (1 << bits) - 1
        )
        self._accumulated(operation, word.c, least, most)

    def _dense(self, operation: Operation) -> None:
        word = operation.instruction
        s, seen = self._read(operation, word.b)
        w, weights = self._read(operation, word.c)
        low, high = _with_pads(seen, s.descriptor.window)
        taps = w.counts[0] if w.counts else 1
        if weights.values is not None:
            positive = np.maximum(weights.values, 0).sum(axis=0, dtype=np.int64)
            negative = positive - weights.values.sum(axis=0, dtype=np.int64)
            least, most = column_bounds(positive, negative, low, high)
        else:
            corners = [a * b for a in (low, high) for b in (weights.low, weights.high)]
            least, most = taps * min(corners), taps * max(corners)
        self._accumulated(operation, word.a, least, most)

    def _requant(
        self, operation: Operation, number: int, sources: list[ValueRange], d: Operand
    ) -> ValueRange:
        self.requantisations += 1
        dtype_low, dtype_high = DTYPE_RANGES[d.descriptor.dtype]
        if not 0 <= number < len(self.program.requants):
            self.report(operation, f"there is no requant entry {number}")
            return ValueRange(dtype_low, dtype_high)
        entry = self.program.requants[number]
        reach = [max(abs(s.low), abs(s.high)) for s in sources]
        if len(sources) == 1:
            channels = max(len(entry.m), len(entry.b))
            m, b = (p * channels if len(p) == 1 else p for p in (entry.m, entry.b))
            most = max(reach[0] * abs(x) + abs(y) for x, y in zip(m, b, strict=True))
        else:
            most = sum(r * abs(x) for r, x in zip(reach, entry.m, strict=False)) + abs(entry.b[0])
        if most >= _PROVEN:
            self.report(operation, f"x * m + b may reach {most}, beyond 2^62")
        self.requantisations_in_float += most < _FLOAT
        low, high = max(entry.low, dtype_low), min(entry.high, dtype_high)
        return ValueRange(low, high) if low <= high else ValueRange(dtype_low, dtype_high)

    # one method an instruction: the range of its destination

    def _copy(self, operation: Operation, d: Operand) -> ValueRange:
        return self._read(operation, operation.instruction.b)[1]

    def _fill(self, operation: Operation, d: Operand) -> ValueRange:
        value = (operation.instruction.b + (1 << 15)) % (1 << 16) - (1 << 15)
        return ValueRange(value, value)

    def _accumulate(self, operation: Operation, d: Operand) -> ValueRange:
        a, b = self.memory.read(d, operation.core), self._copy(operation, d)
        return self._sum(operation, d, a.low + b.low, a.high + b.high)

    def _elementwise(self, operation: Operation, d: Operand) -> ValueRange:
        word = operation.instruction
        ranges = []
        for number in (word.b, word.c):
            operand, seen = self._read(operation, number)
            ranges.append((seen.low - operand.descriptor.zero, seen.high - operand.descriptor.zero))
        (al, ah), (bl, bh) = ranges
        corners = [x * y for x in (al, ah) for y in (bl, bh)]
        found = {
            0: (al + bl, ah + bh),
            1: (al - bh, ah - bl),
            2: (min(corners), max(corners)),
            3: (max(al, bl), max(ah, bh)),
            4: (min(al, bl), min(ah, bh)),
        }.get(word.unit, DTYPE_RANGES[d.descriptor.dtype])
        return _saturated(*found, d)

    def _requantise(self, operation: Operation, d: Operand) -> ValueRange:
        return self._requant(operation, operation.instruction.c, [self._copy(operation, d)], d)

    def _residual(self, operation: Operation, d: Operand) -> ValueRange:
        word = operation.instruction
        sources = [self._read(operation, number)[1] for number in (word.b, word.c)]
        return self._requant(operation, d.descriptor.requant, sources, d)

    def _look_up(self, operation: Operation, d: Operand) -> ValueRange:
        seen, number = self._copy(operation, d), operation.instruction.c
        table = self.program.luts[number] if 0 <= number < len(self.program.luts) else b""
        part = table[seen.low : seen.high + 1]
        return ValueRange(min(part), max(part)) if part else ValueRange.any("u8")

    def _reduce(self, operation: Operation, d: Operand) -> ValueRange:
        word = operation.instruction
        s, seen = self._read(operation, word.b)
        width = s.counts[-1] if s.counts else 1
        if word.unit == 0:
            return self._sum(operation, d, width * seen.low, width * seen.high)
        if word.unit == 2:
            return self._sum(operation, d, 0, width * max(seen.low**2, seen.high**2))
        return ValueRange(seen.low, seen.high)

    def _pool(self, operation: Operation, d: Operand) -> ValueRange:
        s, seen = self._read(operation, operation.instruction.b)
        if operation.instruction.unit == 0 or s.descriptor.window is None:
            return ValueRange(*_with_lowest(seen, s))
        low, high = _with_pads(seen, s.descriptor.window)
        taps = math.prod(s.descriptor.window.kernel)
        return self._sum(operation, d, taps * low, taps * high)

    def _convert(self, operation: Operation, d: Operand) -> ValueRange:
        if operation.instruction.unit != 0:
            return ValueRange.any(d.descriptor.dtype)
        seen = self._copy(operation, d)
        return _saturated(seen.low, seen.high, d)


_RESULTS: dict[str, Callable[[SumBounds, Operation, Operand], ValueRange]] = {
    **dict.fromkeys(("LD", "ST", "MOV", "VTR"), SumBounds._copy),
    "FILL": SumBounds._fill,
    "ACC": SumBounds._accumulate,
    "VOP": SumBounds._elementwise,
    "VRQ": SumBounds._requantise,
    "VADDQ": SumBounds._residual,
    "VLUT": SumBounds._look_up,
    "VRED": SumBounds._reduce,
    "VPOOL": SumBounds._pool,
    "VCVT": SumBounds._convert,
}


BOUNDED = frozenset({*_RESULTS, "RECV", "MVM", "MVMP", "VMM", "VDW"})  # every instruction that writes numbers


def _with_pads(seen: ValueRange, window: Window | None) -> tuple[int, int]:
    if window is None or not (any(window.begin) or any(window.end)):
        return seen.low, seen.high
    return min(seen.low, window.pad_value), max(seen.high, window.pad_value)


def _with_lowest(seen: ValueRange, s: Operand) -> tuple[int, int]:
    """Of a maximum: a window that sees nothing but pads gives the lowest number."""
    window = s.descriptor.window
    padded = window is not None and (any(window.begin) or any(window.end))
    if padded and window is not None and _only_pads(window):
        return DTYPE_RANGES[s.descriptor.dtype][0], seen.high
    return seen.low, seen.high


def _only_pads(window: Window) -> bool:
    return any(
        max(b, e) >= d * (k - 1) + 1
        for b, e, d, k in zip(window.begin, window.end, window.dilations, window.kernel, strict=True)
    )


def _saturated(low: int, high: int, d: Operand) -> ValueRange:
    first, last = DTYPE_RANGES[d.descriptor.dtype]
    return ValueRange(min(max(low, first), last), max(min(high, last), first))
