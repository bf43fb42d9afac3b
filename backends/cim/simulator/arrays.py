"""The macros of all cores: WPROG, WPAGE, MVM, MVMP."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import INIT, SKIPZ, Group, Space
from lpcompile.backends.cim.simulator.activity import busy_planes, ones_per_row
from lpcompile.backends.cim.simulator.context import Context, Effect
from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.integers import add_into
from lpcompile.backends.cim.simulator.matrix import MatrixGroup, multiply, prepare
from lpcompile.backends.cim.simulator.operands import Operand
from lpcompile.backends.cim.simulator.planes import PlaneBlock, explicit, plane_blocks
from lpcompile.backends.cim.simulator.streams import Operation
from lpcompile.backends.cim.simulator.timing import Work
from lpcompile.backends.cim.simulator.weights import StoredGroup, read_group
from lpcompile.backends.cim.simulator.windows import WindowShape, chunks, expand, gather

_CHUNK_INPUTS = 1 << 19  # gathered inputs that are held at a time: they stay in the cache


class Arrays:
    """What the macros hold, and how they multiply."""

    def __init__(self, context: Context) -> None:
        self.context = context
        # by core: the group in each (macro, page), and the groups that nothing has been written over
        self._holds: list[dict[tuple[int, int], int]] = [{} for _ in context.program.cores]
        self._intact: list[set[int]] = [set() for _ in context.program.cores]
        self._matrices: dict[tuple[int, int, int], MatrixGroup] = {}
        self._blocks: dict[int, list[PlaneBlock]] = {}
        self._weights: dict[int, NDArray[Any]] = {}
        self._scratch: dict[str, NDArray[Any]] = {}

    def program(self, operation: Operation) -> Effect:
        """WPROG."""
        number, group = self.context.operands.group(operation)
        cells = self._cells(operation, group)
        if operation.instruction.b != group.page0:
            raise operation.fault(
                f"group {number} starts at page {group.page0}, not {operation.instruction.b}"
            )
        holds = self._holds[operation.core]
        self._check(operation, number, group)

        intact = self._intact[operation.core]

        def effect() -> Work:
            intact.difference_update(holds[cell] for cell in cells if cell in holds)
            intact.add(number)
            holds.update(dict.fromkeys(cells, number))
            return Work(group=number, elements=group.rows * group.outputs, indices=operation.indices)

        return effect

    def page(self, operation: Operation) -> Effect:
        """WPAGE: changes when things happen, not what."""
        number, group = self.context.operands.group(operation)
        self._cells(operation, group)
        if not group.page0 <= operation.instruction.b < group.page0 + group.pages:
            raise operation.fault(f"group {number} has no page {operation.instruction.b}")
        return lambda: Work(group=number, indices=operation.indices)

    def multiply(self, operation: Operation) -> Effect:
        """MVM, and MVMP for one input plane."""
        context, word = self.context, operation.instruction
        number, group = context.operands.group(operation)
        self._cells(operation, group)
        x, source = context.read(operation, word.b)
        shape = context.window_shape(operation, x)
        acc, sums = context.write(operation, word.c)
        self._fit(operation, group, x, shape, acc)
        positions = math.prod(shape.positions)
        planes = self._input_planes(operation, x)
        single = word.mnemonic == "MVMP"
        init = bool(word.flags & INIT) and not (operation.indices and operation.indices[0])
        skips = bool(word.flags & SKIPZ)
        bits = [bit for bit, _ in planes]
        macs = 0 if single else positions * group.rows * group.outputs
        if positions * group.rows * group.outputs > context.limits.macs:
            raise operation.fault(f"more than the limit of {context.limits.macs} multiply-accumulates")
        intact = self._intact[operation.core]

        def effect() -> Work:
            if number not in intact:
                raise operation.fault(f"group {number} is not in the macros", hint="WPROG comes first")
            inputs = _Inputs(source, x, planes, single)
            steps = positions * group.blocks * len(bits)
            byte_wise = context.planes or not group.lossless or context.wants_ones or skips
            if byte_wise:
                taken = self._gather(inputs, shape, group, np.uint8)
            if context.wants_ones:
                context.ones = ones_per_row(taken, inputs.bits)
            if skips:
                starts = range(0, group.rows, group.block_rows)
                blocks = [slice(r, min(r + group.block_rows, group.rows)) for r in starts]
                steps = busy_planes(taken, inputs.bits, blocks)
            before = context.counters.changed_conversions
            if context.planes or not group.lossless:
                self._explicit(number, group, taken, inputs, sums, init, operation)
            else:
                self._lossless(number, group, inputs, shape, sums, init, operation)
            changed = context.counters.changed_conversions - before
            context.counters.mvms += 1
            context.counters.macs += macs
            return Work(
                elements=acc.elements,
                bytes=acc.elements * 4,
                group=number,
                positions=positions,
                planes=len(bits),
                plane_steps=steps,
                macs=macs,
                changed_conversions=changed,
                indices=operation.indices,
                varies=skips,
            )

        return effect

    def _lossless(
        self,
        number: int,
        group: Group,
        inputs: "_Inputs",
        shape: WindowShape,
        sums: NDArray[Any],
        init: bool,
        operation: Operation,
    ) -> None:
        matrix = self._matrix(number, group, inputs)
        one = len(matrix.pieces) == 1
        counts = (*shape.positions, group.outputs)
        total = (
            self._buffer("sums", counts, np.float32) if one else self._buffer("long sums", counts, np.int64)
        )
        expanded = inputs.expanded()
        axes = len(shape.kernel)

        def part(at: tuple[slice, ...]) -> None:
            taken = expanded[at]
            counts = taken.shape[: len(shape.positions)]
            rows = self._buffer("inputs", (*counts, group.rows), np.float32)
            gather(taken, axes, group.row0, group.rows, rows)
            multiply(rows.reshape(-1, group.rows), matrix, total[at].reshape(-1, group.outputs))

        chunks(shape.positions, max(1, _CHUNK_INPUTS // group.rows), part)
        fits = add_into(sums, total.reshape(sums.shape), matrix.low, matrix.high, init=init)
        if not fits:
            raise operation.fault("an accumulator leaves the range of int32")

    def _explicit(
        self,
        number: int,
        group: Group,
        taken: NDArray[np.uint8],
        inputs: "_Inputs",
        sums: NDArray[Any],
        init: bool,
        operation: Operation,
    ) -> None:
        if number not in self._blocks:
            self._blocks[number] = plane_blocks(self._stored(operation, group))
        total, changed = explicit(taken, inputs.weighted_bits, self._blocks[number], self.context.converter)
        self.context.counters.changed_conversions += changed
        self.context.counters.explicit_mvms += 1
        low, high = (int(total.min()), int(total.max())) if total.size else (0, 0)
        if not add_into(sums, total.reshape(sums.shape), low, high, init=init):
            raise operation.fault("an accumulator leaves the range of int32")

    def _gather(self, inputs: "_Inputs", shape: WindowShape, group: Group, dtype: Any) -> NDArray[Any]:
        rows = np.empty((*shape.positions, group.rows), dtype)
        gather(inputs.expanded(), len(shape.kernel), group.row0, group.rows, rows)
        return rows.reshape(-1, group.rows).view(np.uint8)

    def _buffer(self, name: str, counts: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Scratch that is used again: fresh pages cost more than a product with few rows."""
        size = math.prod(counts)
        found = self._scratch.get(name)
        if found is None or found.size < size:
            found = self._scratch[name] = np.empty(size, dtype)
        return found[:size].reshape(counts)

    def _matrix(self, number: int, group: Group, inputs: "_Inputs") -> MatrixGroup:
        key = (number, inputs.low, inputs.high)
        if key not in self._matrices:
            self._matrices[key] = prepare(self._weights[number], inputs.low, inputs.high)
        return self._matrices[key]

    def _stored(self, operation: Operation, group: Group) -> StoredGroup:
        try:
            return read_group(self.context.program, group)
        except ValueError as error:
            raise operation.fault(f"group {operation.instruction.a} {error}") from None

    def _check(self, operation: Operation, number: int, group: Group) -> None:
        """Decode a group once, and hold the record's `lossless` against what is stored."""
        if number in self._weights:
            return
        stored = self._stored(operation, group)
        try:
            self._weights[number] = stored.integers()
        except ValueError as error:
            raise operation.fault(f"group {number} {error}") from None
        if group.lossless and not lossless(stored, self.context.converter):
            raise operation.fault(f"group {number} is marked lossless, but a column exceeds the converter")

    def _cells(self, operation: Operation, group: Group) -> list[tuple[int, int]]:
        capacities = self.context.capacities
        macros, last = group.across * group.down, group.first_macro + group.across * group.down
        if min(group.across, group.down, group.pages) < 1 or min(group.first_macro, group.page0) < 0:
            raise operation.fault("the group has no place")
        if last > capacities.macros or group.page0 + group.pages > capacities.pages:
            raise operation.fault(
                f"the group ends at macro {last}, page {group.page0 + group.pages}; "
                f"a core has {capacities.macros} macros of {capacities.pages} pages"
            )
        return [(group.first_macro + m, group.page0 + p) for m in range(macros) for p in range(group.pages)]

    def _fit(self, operation: Operation, group: Group, x: Operand, shape: WindowShape, acc: Operand) -> None:
        if x.descriptor.dtype not in ("u8", "i8"):
            raise operation.fault(f"inputs are u8 or i8, not {x.descriptor.dtype}")
        if group.row0 < 0 or group.rows < 1 or group.row0 + group.rows > shape.rows:
            raise operation.fault(
                f"the group takes rows {group.row0} to {group.row0 + group.rows} of {shape.rows}"
            )
        if acc.descriptor.dtype != "i32" or acc.descriptor.space != Space.LB or acc.descriptor.window:
            raise operation.fault("an accumulator is i32 in the local buffer, without a window")
        counts = acc.counts
        if not counts or counts[-1] != group.outputs or math.prod(counts[:-1]) != math.prod(shape.positions):
            raise operation.fault(
                f"the accumulator has counts {counts} for {math.prod(shape.positions)} positions "
                f"of {group.outputs} outputs"
            )

    def _input_planes(self, operation: Operation, x: Operand) -> list[tuple[int, int]]:
        """(bit, coefficient) of the input planes in use."""
        signed = x.descriptor.dtype == "i8"
        bits = 8 if signed else x.descriptor.bits
        if not 1 <= bits <= 8:
            raise operation.fault(f"inputs have {bits} bits")
        planes = [(i, -128 if signed and i == 7 else 1 << i) for i in range(bits)]
        if operation.instruction.mnemonic == "MVM":
            return planes
        if operation.instruction.unit >= bits:
            raise operation.fault(f"the input has no plane {operation.instruction.unit}")
        return [(operation.instruction.unit, 1)]


class _Inputs:
    """The source of an MVM as the planes in use see it, and the range of its values."""

    def __init__(self, source: NDArray[Any], x: Operand, planes: list[tuple[int, int]], single: bool) -> None:
        self.window = x.descriptor.window
        pad = 0 if self.window is None else self.window.pad_value
        if single:
            bit = planes[0][0]
            self.source = (source.view(np.uint8) >> np.uint8(bit)) & np.uint8(1)
            self.pad, self.low, self.high = (pad >> bit) & 1, 0, 1
            self.bits, self.weighted_bits = [0], [(0, 1)]
            return
        self.bits, self.weighted_bits = [bit for bit, _ in planes], planes
        self.source, self.pad = source, pad
        if x.descriptor.dtype == "i8":
            self.low, self.high = -128, 127
            self.pad = (pad + 128) % 256 - 128
            return
        mask = (1 << len(planes)) - 1
        self.low, self.high = 0, mask
        self.pad = pad & mask
        if mask < 255 and source.max(initial=0) > mask:
            self.source = source & np.uint8(mask)

    def expanded(self) -> NDArray[Any]:
        return expand(self.source, self.window, self.pad)


def lossless(stored: StoredGroup, converter: Converter) -> bool:
    """Whether no column of a stored group can leave the converter's range."""
    return all(
        converter.exact(rows.stop - rows.start, int(ones.max()))
        for rows, ones in zip(stored.blocks(), stored.ones, strict=True)
    )


def lossy_columns(stored: StoredGroup, converter: Converter) -> int:
    """How many column planes of a stored group may leave the converter's range."""
    found = 0
    for rows, ones in zip(stored.blocks(), stored.ones, strict=True):
        size = rows.stop - rows.start
        if not converter.exact(size, int(ones.max())):
            values, counts = np.unique(ones, return_counts=True)
            found += sum(
                int(n) for most, n in zip(values, counts, strict=True) if not converter.exact(size, int(most))
            )
    return found
