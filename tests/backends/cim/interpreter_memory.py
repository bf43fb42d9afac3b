"""The memories of the interpreter: bytes, read and written one element after the other."""

from collections.abc import Iterator, Sequence
from itertools import product

from lpcompile.backends.cim.program import Descriptor, Program
from lpcompile.errors import ProgramError

FORMATS = {"u8": (1, False), "i8": (1, True), "i16": (2, True), "i32": (4, True)}  # bytes, signed

Index = tuple[int, ...]
Operand = tuple[Descriptor, int]  # the record, and its first byte


class PlainMemory:
    """DRAM, global buffer, and a local buffer for each core.

    Args:
        program: whose constants stand in DRAM.
        gb_bytes: of the global buffer.
        lb_bytes: of each local buffer.
    """

    def __init__(self, program: Program, gb_bytes: int, lb_bytes: int) -> None:
        self.program = program
        self.dram = bytearray(program.consts.ljust(program.dram_bytes, b"\0"))
        self.gb = bytearray(gb_bytes)
        self.lb = [bytearray(lb_bytes) for _ in program.cores]

    def operand(self, number: int, loop: Index) -> Operand:
        """A descriptor moved by the REPEAT indices."""
        d = self.program.descriptors[number]
        return d, d.base + sum(step * i for step, i in zip(d.levels, loop, strict=False))

    def _bytes(self, core: int, d: Descriptor) -> bytearray:
        return {"dram": self.dram, "gb": self.gb, "lb": self.lb[core]}[d.space]

    def _at(self, core: int, d: Descriptor, base: int, index: Index) -> tuple[bytearray, int, int, bool]:
        size, signed = FORMATS[d.dtype]
        first = base + sum(i * stride for i, (_, stride) in zip(index, d.dims, strict=True))
        memory = self._bytes(core, d)
        if not 0 <= first <= len(memory) - size:
            raise ProgramError(f"byte {first} of {d.space}")
        return memory, first, size, signed

    def get(self, core: int, d: Descriptor, base: int, index: Index) -> int:
        """One element."""
        memory, first, size, signed = self._at(core, d, base, index)
        return int.from_bytes(memory[first : first + size], "little", signed=signed)

    def set(self, core: int, d: Descriptor, base: int, index: Index, value: int) -> None:
        """Write one element."""
        memory, first, size, signed = self._at(core, d, base, index)
        try:
            memory[first : first + size] = value.to_bytes(size, "little", signed=signed)
        except OverflowError:
            raise ProgramError(f"{value} is no {d.dtype}") from None

    def read(self, core: int, operand: Operand) -> list[int]:
        """All elements, last axis fastest."""
        return [self.get(core, *operand, index) for index in indices(operand[0].counts)]

    def write(self, core: int, operand: Operand, values: Sequence[int]) -> None:
        """Write all elements, last axis fastest."""
        for index, value in zip(indices(operand[0].counts), values, strict=True):
            self.set(core, *operand, index, value)

    def windows(self, core: int, operand: Operand, pad: int | None) -> list[list[list[int]]]:
        """Positions, of each the taps, of each the channels; one tap without a window."""
        d, base = operand
        channels = d.counts[-1]
        w = d.window
        if w is None:
            return [
                [[self.get(core, d, base, (*p, c)) for c in range(channels)]] for p in indices(d.counts[:-1])
            ]
        axes = len(w.kernel)
        lead, spatial = d.counts[: -1 - axes], d.counts[-1 - axes : -1]
        found = []
        for position in indices((*lead, *w.out_counts(spatial))):
            taps = []
            for tap in indices(w.kernel):
                at = [
                    position[len(lead) + i] * w.strides[i] + tap[i] * w.dilations[i] - w.begin[i]
                    for i in range(axes)
                ]
                inside = all(0 <= x < n for x, n in zip(at, spatial, strict=True))
                outside = w.pad_value if pad is None else pad
                taps.append(
                    [
                        self.get(core, d, base, (*position[: len(lead)], *at, c)) if inside else outside
                        for c in range(channels)
                    ]
                )
            found.append(taps)
        return found


def indices(counts: Sequence[int]) -> Iterator[Index]:
    """All indices of an array, last axis fastest."""
    return product(*(range(n) for n in counts))


def limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest value of a dtype."""
    size, signed = FORMATS[dtype]
    return (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << (8 * size)) - 1)


def clip(value: int, low: int, high: int) -> int:
    """The nearest value within bounds."""
    return max(low, min(high, value))


def saturate(value: int, dtype: str) -> int:
    """The nearest value of a dtype."""
    return clip(value, *limits(dtype))


def nearest(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest integer, half to even."""
    quotient, rest = divmod(numerator, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1))
