"""Small programs, written by hand: tables and places grow with the instructions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import (
    CoreCode,
    Descriptor,
    DeviceStage,
    Group,
    HostStage,
    Instruction,
    Interface,
    PlaneSet,
    Port,
    Program,
    Requant,
    Space,
    Window,
)
from lpcompile.backends.cim.simulator.capacities import Capacities

BYTES = {"u8": 1, "i8": 1, "i16": 2, "i32": 4}
NAMES = {
    np.dtype(np.uint8): "u8",
    np.dtype(np.int8): "i8",
    np.dtype(np.int16): "i16",
    np.dtype(np.int32): "i32",
}
TWOS4, TWOS8 = (1, 2, 4, -8), (1, 2, 4, 8, 16, 32, 64, -128)
Code = list[Instruction]


def capacities(**changes: Any) -> Capacities:
    """A small machine."""
    sizes: dict[str, Any] = {
        "cores": 8,
        "gb_bytes": 1 << 16,
        "lb_bytes": 1 << 16,
        "macros": 64,
        "pages": 8,
        "adc_bits": 6,
    }
    return Capacities(**{**sizes, **changes})


def op(mnemonic: str, a: int = 0, b: int = 0, c: int = 0, *, unit: int = 0, flags: int = 0) -> Instruction:
    return Instruction(mnemonic, a, b, c, unit, flags)


def dense_dims(shape: Sequence[int], size: int) -> tuple[tuple[int, int], ...]:
    """(count, stride) of an array without gaps."""
    dims, stride = [], size
    for count in reversed(shape):
        dims.append((count, stride))
        stride *= count
    return tuple(reversed(dims))


def pack_group(
    weights: NDArray[Any],
    coefficients: Sequence[int],
    block_rows: int,
    multipliers: NDArray[Any] | None = None,
    *,
    complement: bool = True,
) -> bytes:
    """The bytes of a group, columns with more ones than zeros inverted.

    Args:
        weights: (rows, outputs), each a sum of some of the coefficients.
        coefficients: of the planes, signed powers of two.
        block_rows: rows of a block.
        multipliers: (blocks, outputs), or None.
        complement: whether to invert columns at all.
    """
    bits = plane_bits(weights, coefficients)
    rows, outputs = weights.shape
    blocks = -(-rows // block_rows)
    flags = np.zeros((blocks, len(coefficients), outputs), np.uint8)
    for block in range(blocks):
        part = bits[:, block * block_rows : (block + 1) * block_rows]
        if complement:
            flags[block] = 2 * part.sum(axis=1) > part.shape[1]
        part ^= flags[block][:, None]
    packed = [np.packbits(a.ravel(), bitorder="little").tobytes() for a in (bits, flags)]
    return b"".join(packed) + (b"" if multipliers is None else multipliers.astype(np.uint8).tobytes())


def plane_bits(weights: NDArray[Any], coefficients: Sequence[int]) -> NDArray[np.uint8]:
    """Bits (P, rows, outputs) by trying all combinations of the planes."""
    choices: dict[int, list[int]] = {}
    for code in range(1 << len(coefficients)):
        bits = [(code >> j) & 1 for j in range(len(coefficients))]
        choices.setdefault(sum(b * c for b, c in zip(bits, coefficients, strict=True)), bits)
    table = np.array([choices.get(v, [0] * len(coefficients)) for v in range(-1024, 1025)], np.uint8)
    return np.ascontiguousarray(np.moveaxis(table[weights.astype(int) + 1024], -1, 0))


@dataclass
class Builder:
    """Grows a program.

    `run[core]` and `boot[core]` are streams without HALT; ports are added by `feed` and `fetch`.
    """

    cores: int = 1
    descriptors: list[Descriptor] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    plane_sets: list[PlaneSet] = field(default_factory=list)
    requants: list[Requant] = field(default_factory=list)
    luts: list[bytes] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    consts: bytearray = field(default_factory=bytearray)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    boot: list[Code] = field(default_factory=list)
    run: list[Code] = field(default_factory=list)
    macro: int = 0

    def __post_init__(self) -> None:
        self.boot = [[] for _ in range(self.cores)]
        self.run = [[] for _ in range(self.cores)]
        self._next = {Space.DRAM: 0, Space.GB: 0, Space.LB: 0}

    def place(self, space: Space, size: int) -> int:
        """The first byte of a new place; local places are the same in every core."""
        base = self._next[space]
        self._next[space] = base + -(-size // 8) * 8
        return base

    def desc(
        self,
        shape: Sequence[int],
        dtype: str = "u8",
        space: Space = Space.LB,
        base: int | None = None,
        dims: Sequence[tuple[int, int]] | None = None,
        **more: Any,
    ) -> int:
        """A descriptor of an array, without gaps unless `dims` are given, in a new place unless `base` is."""
        size = BYTES[dtype]
        if base is None:
            base = self.place(space, size * int(np.prod(shape, dtype=int)))
        made = Descriptor(space, dtype, base, tuple(dims or dense_dims(shape, size)), **more)
        self.descriptors.append(made)
        return len(self.descriptors) - 1

    def again(self, number: int, **changes: Any) -> int:
        """A descriptor like another one."""
        from dataclasses import replace

        self.descriptors.append(replace(self.descriptors[number], **changes))
        return len(self.descriptors) - 1

    def feed(
        self, name: str, shape: Sequence[int], dtype: str = "u8", *, core: int = 0, batch: bool = False
    ) -> int:
        """An input port, and a local copy of it in `core`; the descriptor of the copy."""
        port = self.desc(shape, dtype, Space.DRAM)
        self.inputs.append(Port(name, dtype, (1, *shape) if batch else tuple(shape), port, batch))
        local = self.desc(shape, dtype)
        self.run[core] += [op("LD", local, port), op("BAR")]
        return local

    def fetch(
        self, name: str, number: int, dtype: str | None = None, *, core: int = 0, batch: bool = False
    ) -> None:
        """An output port, filled from a local descriptor of `core`."""
        source = self.descriptors[number]
        shape = source.counts
        if source.dtype in ("u8", "i32"):
            port = self.desc(shape, source.dtype, Space.DRAM)
            self.run[core] += [op("BAR"), op("ST", port, number)]
        else:
            wide = self.desc(shape, "i32")
            port = self.desc(shape, "i32", Space.DRAM)
            self.run[core] += [op("BAR"), op("VCVT", wide, number), op("BAR"), op("ST", port, wide)]
        kind = self.descriptors[port].dtype
        self.outputs.append(Port(name, kind, (1, *shape) if batch else tuple(shape), port, batch))

    def group(
        self,
        weights: NDArray[Any],
        coefficients: Sequence[int] = TWOS4,
        block_rows: int = 63,
        *,
        row0: int = 0,
        multipliers: NDArray[Any] | None = None,
        core: int = 0,
        lossless: bool = True,
        boot: bool = True,
        complement: bool = True,
        **more: Any,
    ) -> int:
        """A group of weights (rows, outputs), programmed at the boot of `core`."""
        self.plane_sets.append(PlaneSet("test", tuple(coefficients)))
        offset = len(self.weights)
        self.weights += pack_group(weights, coefficients, block_rows, multipliers, complement=complement)
        rows, outputs = weights.shape
        blocks = -(-rows // block_rows)
        made = Group(
            row0, rows, outputs, len(self.plane_sets) - 1, offset, self.macro, 1, blocks, 1, 0, block_rows,
            multipliers is not None, lossless, **more,
        )  # fmt: skip
        self.macro += blocks
        self.groups.append(made)
        number = len(self.groups) - 1
        if boot:
            self.boot[core].append(op("WPROG", number, 0))
        return number

    def const(self, values: NDArray[Any], *, core: int = 0) -> int:
        """Constants, loaded into `core` at the boot; the descriptor of the local copy."""
        dtype = NAMES[values.dtype]
        if self._next[Space.DRAM] != len(self.consts):
            raise ValueError("constants come before all else that lies in DRAM")
        base = self.place(Space.DRAM, values.nbytes)
        self.consts += values.tobytes().ljust(-(-values.nbytes // 8) * 8, b"\0")
        stored = self.desc(values.shape, dtype, Space.DRAM, base)
        local = self.desc(values.shape, dtype)
        self.boot[core] += [op("LD", local, stored)]
        return local

    def requant(self, m: Any, b: Any, k: Any, zero: int = 0, low: int = 0, high: int = 255) -> int:
        """A requant entry; numbers stand for one entry."""
        parts = [tuple(int(v) for v in np.atleast_1d(p)) for p in (m, b, k)]
        self.requants.append(Requant(parts[0], parts[1], parts[2], zero, low, high))
        return len(self.requants) - 1

    def program(self, stages: Sequence[HostStage | DeviceStage] | None = None) -> Program:
        """The program so far, with one device stage unless stages are given."""
        halt = op("HALT")
        cores = tuple(
            CoreCode((*boot, halt), ((*run, halt),)) for boot, run in zip(self.boot, self.run, strict=True)
        )
        device = DeviceStage(0, tuple(self.inputs), tuple(self.outputs))
        interfaces = [
            tuple(
                Interface(p.name, {"u8": "uint8", "i32": "int32"}[p.dtype],
                          ("N", *p.shape[1:]) if p.batch_axis else p.shape)
                for p in ports
            )
            for ports in (self.inputs, self.outputs)
        ]  # fmt: skip
        return Program(
            machine="test", machine_sha256="", cores=cores, descriptors=tuple(self.descriptors),
            groups=tuple(self.groups), plane_sets=tuple(self.plane_sets), requants=tuple(self.requants),
            luts=tuple(self.luts), weights=bytes(self.weights), consts=bytes(self.consts),
            dram_bytes=self._next[Space.DRAM], stages=tuple(stages) if stages is not None else (device,),
            inputs=interfaces[0], outputs=interfaces[1], nodes=tuple(self.nodes),
        )  # fmt: skip


def window(kernel: Sequence[int], strides: Sequence[int] | None = None, pads: Sequence[int] | None = None,
           dilations: Sequence[int] | None = None, pad_value: int = 0) -> Window:  # fmt: skip
    """A window; pads are (begin..., end...) as ONNX has them."""
    n = len(kernel)
    pads = tuple(pads or (0,) * (2 * n))
    return Window(
        tuple(kernel), tuple(strides or (1,) * n), tuple(dilations or (1,) * n), pads[:n], pads[n:], pad_value
    )


def windows_of(x: NDArray[Any], w: Window) -> NDArray[Any]:
    """Positions by taps by channels of (spatial..., channel), with loops over positions: the oracle."""
    pads = [*zip(w.begin, w.end, strict=True), (0, 0)]
    x = np.pad(x, pads, constant_values=w.pad_value)
    axes = len(w.kernel)
    out = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[:-1], w.kernel, w.strides, w.dilations, strict=True)
    ]
    found = np.zeros((*out, int(np.prod(w.kernel)), x.shape[-1]), x.dtype)
    for position in np.ndindex(*out):
        for tap, offset in enumerate(np.ndindex(*w.kernel)):
            at = tuple(position[i] * w.strides[i] + offset[i] * w.dilations[i] for i in range(axes))
            found[(*position, tap)] = x[at]
    return found
