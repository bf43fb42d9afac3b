"""A second reading of docs/cim/execution.md: plain integers, one element after the other, no clever step.

It shares no code with the simulator and exists to disagree with it.  It runs any one legal order of the queues
(`choose` picks), every MVM plane by plane with the converter, and knows neither cycles nor races.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import INIT, DeviceStage, Group, Instruction, Program
from lpcompile.errors import ProgramError
from tests.backends.cim.interpreter_memory import (
    Index,
    Operand,
    PlainMemory,
    clip,
    indices,
    limits,
    nearest,
    saturate,
)

PORTS: dict[str, Any] = {"u8": np.uint8, "i32": np.int32}
UNITS = {
    **dict.fromkeys(("WPROG", "WPAGE", "MVM", "MVMP"), 0),
    **dict.fromkeys(("LD", "ST", "MOV"), 2),
    **dict.fromkeys(("SEND", "RECV"), 3),
}
VECTOR = 1

Choose = Callable[[Sequence[int]], int]


class Interpreter:
    """One machine with one program in it.

    Args:
        program: to execute.
        gb_bytes: of the global buffer.
        lb_bytes: of the local buffer of each core.
        adc_bits: of the converter; None for a digital sum.
        transfer: `clip` or `scale`.
        choose: which of the queues that can go on does: takes their numbers, gives one; the first by default.
    """

    def __init__(
        self,
        program: Program,
        *,
        gb_bytes: int,
        lb_bytes: int,
        adc_bits: int | None,
        transfer: str = "clip",
        choose: Choose | None = None,
    ) -> None:
        self.program = program
        self.adc_bits, self.transfer = adc_bits, transfer
        self.choose = choose or (lambda ready: ready[0])
        self.memory = PlainMemory(program, gb_bytes, lb_bytes)
        self.planes: dict[int, tuple[Any, Any, Any]] = {}  # group -> bits, flags, multipliers
        self.written: list[dict[tuple[int, int], int]] = [{} for _ in program.cores]
        self._execute([code.boot for code in program.cores])

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one sample through all device stages.

        Args:
            feeds: arrays by name of the ports, in their shapes.

        Returns:
            Arrays by name of the ports.

        Raises:
            ProgramError: the program is wrong or waits for ever.
        """
        values = dict(feeds)
        for stage in self.program.stages:
            if not isinstance(stage, DeviceStage):
                raise ProgramError("the interpreter has no host")
            for port in stage.inputs:
                place = self.program.descriptors[port.descriptor]
                for index, value in zip(
                    indices(place.counts), values[port.name].ravel().tolist(), strict=True
                ):
                    self.memory.set(0, place, place.base, index, value)
            self._execute([code.run[stage.index] for code in self.program.cores])
            for port in stage.outputs:
                place = self.program.descriptors[port.descriptor]
                found = [self.memory.get(0, place, place.base, i) for i in indices(place.counts)]
                values[port.name] = np.array(found, PORTS[port.dtype]).reshape(port.shape)
        stages = [stage for stage in self.program.stages if isinstance(stage, DeviceStage)]
        return {port.name: values[port.name] for stage in stages for port in stage.outputs}

    # queues

    def _execute(self, streams: Sequence[Sequence[Instruction]]) -> None:
        """Run streams until all queues are empty."""
        queues: list[deque[tuple[Instruction, Index]]] = [deque() for _ in range(4 * len(streams))]
        for core, stream in enumerate(streams):
            for word, loop in unrolled(stream, 0, len(stream), ()):
                if word.mnemonic == "BAR":
                    for unit in range(4):
                        queues[4 * core + unit].append((word, loop))
                elif word.mnemonic in ("SIG", "WAIT"):
                    queues[4 * core + word.unit].append((word, loop))
                else:
                    queues[4 * core + UNITS.get(word.mnemonic, VECTOR)].append((word, loop))
        self.events: dict[tuple[int, int], int] = defaultdict(int)
        self.messages: dict[tuple[int, int, int], deque[tuple[str, list[int]]]] = defaultdict(deque)
        while any(queues):
            ready = [i for i, queue in enumerate(queues) if queue and self._can(queues, i)]
            if not ready:
                raise ProgramError("all queues wait")
            chosen = self.choose(ready)
            core = chosen // 4
            word, loop = queues[chosen][0]
            if word.mnemonic == "BAR":
                for unit in range(4):
                    queues[4 * core + unit].popleft()
                continue
            queues[chosen].popleft()
            self._step(core, word, loop)
        if any(self.events.values()) or any(self.messages.values()):
            raise ProgramError("events or messages are left over")

    def _can(self, queues: Sequence[deque[tuple[Instruction, Index]]], number: int) -> bool:
        core, (word, _) = number // 4, queues[number][0]
        if word.mnemonic == "BAR":
            mates = queues[4 * core : 4 * core + 4]
            return all(q and q[0][0] is word and q[0][1] == queues[number][0][1] for q in mates)
        if word.mnemonic == "WAIT":
            return self.events[core, word.a] >= word.b
        return word.mnemonic != "RECV" or bool(self.messages[word.b, core, word.c])

    def _step(self, core: int, word: Instruction, loop: Index) -> None:
        name = word.mnemonic
        if name == "SIG":
            self.events[word.b, word.a] += 1
        elif name == "WAIT":
            self.events[core, word.a] -= word.b
        elif name == "SEND":
            s = self.memory.operand(word.a, loop)
            self.messages[core, word.b, word.c].append((s[0].dtype, self.memory.read(core, s)))
        elif name == "RECV":
            d = self.memory.operand(word.a, loop)
            dtype, values = self.messages[word.b, core, word.c].popleft()
            if dtype != d[0].dtype:
                raise ProgramError("a message of another dtype")
            self.memory.write(core, d, values)
        elif name == "WPROG":
            number = self._group(word.a, loop)
            group = self.program.groups[number]
            self.planes[number] = stored_planes(self.program, group)
            for macro in range(group.across * group.down):
                for page in range(group.pages):
                    self.written[core][group.first_macro + macro, group.page0 + page] = number
        elif name in ("MVM", "MVMP"):
            self._mvm(core, word, loop)
        elif name == "FILL":
            d = self.memory.operand(word.a, loop)
            value = word.b - (word.b >> 15 << 16)
            self.memory.write(core, d, [value] * prod(d[0].counts))
        elif name != "WPAGE":
            self._compute(core, word, loop)

    # arrays

    def _group(self, number: int, loop: Index) -> int:
        return number + sum(s * i for s, i in zip(self.program.groups[number].step, loop, strict=False))

    def _mvm(self, core: int, word: Instruction, loop: Index) -> None:
        number = self._group(word.a, loop)
        group = self.program.groups[number]
        for macro in range(group.across * group.down):
            for page in range(group.pages):
                if self.written[core].get((group.first_macro + macro, group.page0 + page)) != number:
                    raise ProgramError(f"group {number} is not programmed")
        x, acc = self.memory.operand(word.b, loop), self.memory.operand(word.c, loop)
        signed = x[0].dtype == "i8"
        bits = 8 if signed else x[0].bits
        inputs = {i: -128 if signed and i == 7 else 1 << i for i in range(bits)}
        if word.mnemonic == "MVMP":
            inputs = {word.unit: 1}
        keep = word.flags & INIT == 0 or (len(loop) > 0 and loop[0] > 0)
        before = self.memory.read(core, acc) if keep else [0] * prod(acc[0].counts)
        sums = []
        for taps in self.memory.windows(core, x, None):
            rows = [value for tap in taps for value in tap][group.row0 : group.row0 + group.rows]
            sums += [self._column(number, group, rows, inputs, n) for n in range(group.outputs)]
        self.memory.write(core, acc, [a + b for a, b in zip(before, sums, strict=True)])

    def _column(
        self, number: int, group: Group, rows: Sequence[int], inputs: Mapping[int, int], output: int
    ) -> int:
        """The sum of one output at one position."""
        bits, flags, multipliers = self.planes[number]
        total = 0
        for block in range(group.blocks):
            first = block * group.block_rows
            part = range(first, min(first + group.block_rows, group.rows))
            subtotal = 0
            for i, ci in inputs.items():
                on = [r for r in part if rows[r] >> i & 1]
                for j, cj in enumerate(self.program.plane_sets[group.planes].coefficients):
                    read = self._read(sum(int(bits[j, r, output]) for r in on), len(part))
                    subtotal += ci * cj * (len(on) - read if flags[block, j, output] else read)
            total += subtotal if multipliers is None else subtotal * int(multipliers[block, output])
        return total

    def _read(self, ones: int, block_rows: int) -> int:
        """The converter."""
        if self.adc_bits is None:
            return ones
        most = (1 << self.adc_bits) - 1
        if self.transfer == "clip":
            return min(ones, most)
        if block_rows <= most:
            return ones
        return nearest(nearest(ones * most, block_rows) * block_rows, most)

    # vector unit

    def _compute(self, core: int, word: Instruction, loop: Index) -> None:
        name = word.mnemonic
        d, s = self.memory.operand(word.a, loop), self.memory.operand(word.b, loop)
        if name in ("LD", "ST", "MOV", "VTR"):
            self.memory.write(core, d, self.memory.read(core, s))
        elif name == "ACC":
            both = zip(self.memory.read(core, d), self.memory.read(core, s), strict=True)
            self.memory.write(core, d, [a + b for a, b in both])
        elif name == "VLUT":
            self.memory.write(core, d, [self.program.luts[word.c][v] for v in self.memory.read(core, s)])
        elif name == "VRQ":
            self._requantise(core, word, d, s)
        elif name in ("VOP", "VADDQ"):
            self._binary(core, word, d, s, self.memory.operand(word.c, loop))
        elif name == "VRED":
            self._reduce(core, word, d, s)
        elif name == "VCVT":
            self._convert(core, word, d, s)
        elif name == "VPOOL":
            low = limits(s[0].dtype)[0]
            found = []
            for taps in self.memory.windows(core, s, low if word.unit == 0 else None):
                found += [max(c) if word.unit == 0 else sum(c) for c in zip(*taps, strict=True)]
            self.memory.write(core, d, found)
        elif name in ("VDW", "VMM"):
            self._multiply(
                core, word, d, s, self.memory.operand(word.c, loop), keep=len(loop) > 0 and loop[0] > 0
            )
        else:
            raise ProgramError(f"no instruction '{name}'")

    def _requantise(self, core: int, word: Instruction, d: Operand, s: Operand) -> None:
        rq = self.program.requants[word.c]
        found = []
        for index, x in zip(indices(s[0].counts), self.memory.read(core, s), strict=True):
            channel = index[-1] if index else 0
            m, b, k = (part[channel if len(part) > 1 else 0] for part in (rq.m, rq.b, rq.k))
            found.append(saturate(clip(((x * m + b) >> k) + rq.zero, rq.low, rq.high), d[0].dtype))
        self.memory.write(core, d, found)

    def _binary(
        self,
        core: int,
        word: Instruction,
        d: Operand,
        s1: Operand,
        s2: Operand,
    ) -> None:
        found = []
        for a, b in zip(self.memory.read(core, s1), self.memory.read(core, s2), strict=True):
            if word.mnemonic == "VADDQ":
                rq = self.program.requants[d[0].requant]
                y = ((a * rq.m[0] + b * rq.m[1] + rq.b[0]) >> rq.k[0]) + rq.zero
                y = clip(y, rq.low, rq.high)
            else:
                y = operate(word.unit, a - s1[0].zero, b - s2[0].zero)
            found.append(saturate(y, d[0].dtype))
        self.memory.write(core, d, found)

    def _reduce(self, core: int, word: Instruction, d: Operand, s: Operand) -> None:
        values, width = self.memory.read(core, s), s[0].counts[-1]
        rows = [values[i : i + width] for i in range(0, len(values), width)]
        self.memory.write(
            core,
            d,
            [sum(r) if word.unit == 0 else max(r) if word.unit == 1 else sum(v * v for v in r) for r in rows],
        )

    def _convert(self, core: int, word: Instruction, d: Operand, s: Operand) -> None:
        values = self.memory.read(core, s)
        if word.unit == 0:
            found = [saturate(v, d[0].dtype) for v in values]
        elif word.unit == 1:
            found = [(a & 15) | (b & 15) << 4 for a, b in zip(values[::2], values[1::2], strict=True)]
            found = [v - 256 if d[0].dtype == "i8" and v > 127 else v for v in found]
        else:
            found = [code for v in values for code in (v & 15, v >> 4 & 15)]
            found = [v - 16 if d[0].dtype == "i8" and v > 7 else v for v in found]
        self.memory.write(core, d, found)

    def _multiply(
        self,
        core: int,
        word: Instruction,
        d: Operand,
        s: Operand,
        w: Operand,
        *,
        keep: bool,
    ) -> None:
        keep = keep or word.flags & INIT == 0
        before = self.memory.read(core, d) if keep else [0] * prod(d[0].counts)
        sums = []
        for taps in self.memory.windows(core, s, None):
            if word.mnemonic == "VMM":
                row = [v for tap in taps for v in tap]
                outputs = range(w[0].counts[1])
                sums += [
                    sum(v * self.memory.get(core, *w, (r, n)) for r, v in enumerate(row)) for n in outputs
                ]
                continue
            for c, j in indices(w[0].counts[1:]):
                sums.append(sum(tap[c] * self.memory.get(core, *w, (t, c, j)) for t, tap in enumerate(taps)))
        self.memory.write(core, d, [a + b for a, b in zip(before, sums, strict=True)])


def unrolled(
    stream: Sequence[Instruction], start: int, stop: int, loop: Index
) -> Iterator[tuple[Instruction, Index]]:
    """The instructions of a stream with the REPEAT indices, innermost first."""
    pc = start
    while pc < stop:
        word = stream[pc]
        pc += 1
        if word.mnemonic == "REPEAT":
            for i in range(word.a):
                yield from unrolled(stream, pc, pc + word.b, (i, *loop))
            pc += word.b
        elif word.mnemonic not in ("NOP", "MARK", "HALT"):
            yield word, loop


def stored_planes(program: Program, group: Group) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Bits (P, rows, outputs), flags (blocks, P, outputs) and multipliers (blocks, outputs) of a group."""
    planes = len(program.plane_sets[group.planes].coefficients)
    at = group.offset
    parts = []
    for shape in ((planes, group.rows, group.outputs), (group.blocks, planes, group.outputs)):
        size = prod(shape)
        packed = program.weights[at : at + -(-size // 8)]
        parts.append(np.array([packed[i // 8] >> i % 8 & 1 for i in range(size)]).reshape(shape))
        at += len(packed)
    if not group.multipliers:
        return parts[0], parts[1], None
    count = group.blocks * group.outputs
    return (
        parts[0],
        parts[1],
        np.array(list(program.weights[at : at + count])).reshape(group.blocks, group.outputs),
    )


def operate(function: int, a: int, b: int) -> int:
    """A function of VOP."""
    if function in (5, 6) and not 0 <= b < 32:
        raise ProgramError(f"a shift of {b}")
    if function == 5:
        return int(a << b)
    if function == 6:
        return int(a >> b)
    return (a + b, a - b, a * b, max(a, b), min(a, b))[function]
