"""What a compiled program is: instructions, and the tables that their operands point into. [cim-machine 2].

A program serves one sample.  Each core has its own instruction stream; a sequencer issues it in order into four
queues (CIM, VEC, DMA, NOC), each of which works in order and beside the others.  Queues, and cores, are ordered by
counting events alone.  Streams hold no data-dependent branch: REPEAT has a static count and nests at most three deep.

Shapes are those of the tensors, slowest axis first; strides and addresses are in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

MAX_DIMS = 5
MAX_LEVELS = 3
NO_TABLE = -1
DTYPE_BYTES = {"u8": 1, "i8": 1, "i16": 2, "i32": 4}
DTYPE_RANGES = {
    "u8": (0, 255),
    "i8": (-128, 127),
    "i16": (-(1 << 15), (1 << 15) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
}
INIT, SKIPZ = 1, 2  # flags of MVM; INIT is one of VDW and VMM, too


class Space(StrEnum):
    """Where a descriptor's bytes lie: off chip, in the chip's global buffer, in the buffer of the executing core."""

    DRAM = "dram"
    GB = "gb"
    LB = "lb"


class Queue(IntEnum):
    """The queues of a core, as the `unit` of SIG and WAIT names them."""

    CIM = 0
    VEC = 1
    DMA = 2
    NOC = 3


@dataclass(frozen=True, slots=True)
class Window:
    """Sliding windows over the spatial axes of a descriptor, which stand right before its last axis (channels).

    Output positions along axis i: `(count + begin + end - dilation * (kernel - 1) - 1) // stride + 1`.
    What lies outside reads as `pad_value`.  The rows of one position are ordered (kernel axes..., channel).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    pad_value: int = 0

    def out_counts(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Positions along each spatial axis for spatial counts."""
        found = zip(counts, self.kernel, self.strides, self.dilations, self.begin, self.end, strict=True)
        return tuple((n + b + e - d * (k - 1) - 1) // s + 1 for n, k, s, d, b, e in found)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A strided piece of memory, read or written as an array.

    Attributes:
        space: dram, gb, or lb of the core that executes the instruction.
        dtype: u8, i8, i16, i32.
        base: first byte.
        dims: (count, stride) of each axis, slowest first; stride 0 repeats (reads only).
        levels: bytes added to `base` for each index of the enclosing REPEATs, innermost first.
        window: sliding windows (MVM, VMM, VDW, VPOOL sources).
        bits: significant bits of a u8 operand: the input planes of an MVM.
        zero: subtracted from every value when VOP reads it.
        requant: entry of the requant table that VADDQ applies; stands in its destination's descriptor.
    """

    space: Space
    dtype: str
    base: int
    dims: tuple[tuple[int, int], ...]
    levels: tuple[int, ...] = ()
    window: Window | None = None
    bits: int = 8
    zero: int = 0
    requant: int = NO_TABLE

    @property
    def counts(self) -> tuple[int, ...]:
        """Elements along each axis."""
        return tuple(n for n, _ in self.dims)


@dataclass(frozen=True, slots=True)
class PlaneSet:
    """How a weight is spread over one-bit columns: `w = sum_j coefficients[j] * bit_j`.

    Attributes:
        name: of the number format or rule it serves.
        coefficients: signed powers of two.
    """

    name: str
    coefficients: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The weights of one MVM: K rows by n outputs as bit planes, over the macros of one core.

    Rows fall into blocks of `block_rows` (at most the machine's active rows): one block is read at a time, each on
    macros of its own or on pages of one macro.  In `Program.weights`, from `offset`, bits packed little-endian:
    planes (P, rows, outputs) as stored, each part padded to whole bytes, then complement flags (blocks, P, outputs),
    then, with `multipliers`, one byte a (block, output).  A flagged column of a block is stored inverted:
    `popcount = n_on - popcount_stored`, n_on the active inputs of the block.

    Attributes:
        row0, rows: the part of the window's rows that it takes.
        outputs: n.
        planes: entry of the plane-set table.
        offset: into the weights section.
        first_macro, across, down, pages, page0: it uses macros first_macro ... + across * down - 1 of its core, and
            of each the row pages page0 ... + pages - 1; `across` splits outputs, `down * pages` holds the blocks.
        block_rows: rows of a block.
        multipliers: whether a partial sum is multiplied by an integer group scale before it is added.
        lossless: every column of every block is proven to stay within the converter's range.
        step: groups to advance for each index of the enclosing REPEATs, innermost first.
    """

    row0: int
    rows: int
    outputs: int
    planes: int
    offset: int
    first_macro: int
    across: int
    down: int
    pages: int
    page0: int
    block_rows: int
    multipliers: bool = False
    lossless: bool = True
    step: tuple[int, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks of rows."""
        return -(-self.rows // self.block_rows)


@dataclass(frozen=True, slots=True)
class Requant:
    """`y = clip(((x * m + b) >> k) + zero, low, high)`, int64 inside, `>>` arithmetic. [architecture 3.5].

    For VADDQ: `y = clip(((a * m[0] + b * m[1] + b[0]) >> k[0]) + zero, low, high)`.

    Attributes:
        m: int16, one entry, or one for each index of the last axis; two for VADDQ.
        b: int64, with the rounding constant, bias and zero-point corrections inside.
        k: 0..62.
        zero, low, high: int32; they already count in codes of the destination.
    """

    m: tuple[int, ...]
    b: tuple[int, ...]
    k: tuple[int, ...]
    zero: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One 64-bit word: `[63:58] opcode | [57:52] flags | [51:48] unit | [47:32] a | [31:16] b | [15:0] c`."""

    mnemonic: str
    a: int = 0
    b: int = 0
    c: int = 0
    unit: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that enters or leaves a device stage through DRAM.

    Attributes:
        name: of the tensor in `model.onnx`.
        dtype: u8 or i32.
        shape: of one sample, as the graph has it (a symbolic batch axis is 1).
        descriptor: where and in which layout it lies; its counts are those of `shape` without a leading 1 where
            the program serves a symbolic batch, in the graph's axis order.
        batch_axis: whether axis 0 is the symbolic batch axis.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    descriptor: int
    batch_axis: bool


@dataclass(frozen=True, slots=True)
class HostStage:
    """What the machine cannot do, as an ONNX model that ONNX Runtime runs on the whole batch."""

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)  # node -> why the machine does not do it


@dataclass(frozen=True, slots=True)
class DeviceStage:
    """One run of the machine: entry `index` of every core's `run` streams, once a sample."""

    index: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class CoreCode:
    """Streams of one core: `boot` once, `run[i]` for device stage i."""

    boot: tuple[Instruction, ...]
    run: tuple[tuple[Instruction, ...], ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """An input or output of the whole program: name, ONNX element type as numpy spells it, shape with names."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Program:
    """Everything that a simulator needs beside the machine description.

    Attributes:
        machine: name of the machine.
        machine_sha256: of the description it was compiled for; another one is refused.
        cores: streams by core number.
        descriptors, groups, plane_sets, requants, luts: tables; a lut holds 256 values 0..255.
        weights: bit planes, complement flags and group multipliers.
        consts: bytes of the DRAM image from address 0 (weights of the hp unit).
        dram_bytes: size of the DRAM image.
        stages: in execution order.
        inputs, outputs: as `model.onnx` has them.
        nodes: names of ONNX nodes; MARK's operand points here.
    """

    machine: str
    machine_sha256: str
    cores: tuple[CoreCode, ...]
    descriptors: tuple[Descriptor, ...]
    groups: tuple[Group, ...]
    plane_sets: tuple[PlaneSet, ...]
    requants: tuple[Requant, ...]
    luts: tuple[bytes, ...]
    weights: bytes
    consts: bytes
    dram_bytes: int
    stages: tuple[HostStage | DeviceStage, ...]
    inputs: tuple[Interface, ...]
    outputs: tuple[Interface, ...]
    nodes: tuple[str, ...]
