"""Small programs with known contents, made by hand: no lowering takes part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import (
    CoreCode,
    Descriptor,
    Group,
    Instruction,
    PlaneSet,
    Program,
    Space,
    Window,
)

INT4 = PlaneSet("int4", (1, 2, 4, -8))
X, ACC_OUT, DRAM_IN, GB_IN, HIDDEN, SIDE_W, CODES = range(7)


@dataclass(frozen=True)
class Made:
    """A program of one group, its stored bits, and a batch of inputs. bits: (P, rows, n); inputs: (positions, rows)."""

    program: Program
    bits: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    inputs: NDArray[np.int64]

    @property
    def on(self) -> NDArray[np.int64]:
        """Positions at which plane i of row r is one. (rows, 4)."""
        planes = (self.inputs[:, :, None] >> np.arange(4)) & 1
        return np.asarray(planes.sum(axis=0), np.int64)


def packed(*arrays: NDArray[np.uint8]) -> bytes:
    return b"".join(np.packbits(a.ravel(), bitorder="little").tobytes() for a in arrays)


def rows_of(count: int, length: int, dtype: str = "u8", space: Space = Space.LB) -> Descriptor:
    """A dense (count, length) array at 0."""
    size = {"u8": 1, "i8": 1, "i16": 2, "i32": 4}[dtype]
    return Descriptor(space, dtype, 0, ((count, length * size), (length, size)), bits=4)


def dense(
    positions: int = 6,
    rows: int = 40,
    outputs: int = 8,
    block_rows: int = 15,
    down: int = 2,
    density: float = 0.5,
    flagged: bool = False,
    seed: int = 0,
) -> Made:
    """x (positions, rows) in 4-bit codes times int4 weights (rows, outputs)."""
    rng = np.random.default_rng(seed)
    bits = (rng.random((4, rows, outputs)) < density).astype(np.uint8)
    blocks = -(-rows // block_rows)
    flags = (rng.random((blocks, 4, outputs)) < 0.25 * flagged).astype(np.uint8)
    inputs = rng.integers(0, 16, (positions, rows))
    group = Group(0, rows, outputs, 0, 0, 0, 1, down, -(-blocks // down), 0, block_rows)
    descriptors = (
        rows_of(positions, rows),
        rows_of(positions, outputs, "i32"),
        rows_of(positions, rows, space=Space.DRAM),
        rows_of(positions, rows, space=Space.GB),
        rows_of(positions, 4, "i16"),
        rows_of(4, outputs, "i8"),
        rows_of(positions, outputs),
    )
    return Made(program_of(descriptors, (group,), packed(bits, flags)), bits, flags, inputs)


def program_of(descriptors: tuple[Descriptor, ...], groups: tuple[Group, ...], weights: bytes) -> Program:
    return Program(
        machine="reference",
        machine_sha256="",
        cores=(CoreCode((), ()),),
        descriptors=descriptors,
        groups=groups,
        plane_sets=(INT4,),
        requants=(),
        luts=(),
        weights=weights,
        consts=b"",
        dram_bytes=0,
        stages=(),
        inputs=(),
        outputs=(),
        nodes=(),
    )


def image(height: int, width: int, channels: int, kernel: int, stride: int = 1, pad: int = 0) -> Descriptor:
    """A windowed (height, width, channels) image."""
    window = Window((kernel,) * 2, (stride,) * 2, (1, 1), (pad,) * 2, (pad,) * 2)
    dims = ((height, width * channels), (width, channels), (channels, 1))
    return Descriptor(Space.LB, "u8", 0, dims, window=window, bits=4)


MVM = Instruction("MVM", a=0, b=X, c=ACC_OUT, flags=1)
