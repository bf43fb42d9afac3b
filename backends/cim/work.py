"""What a device stage does, tensor by tensor, before it is cut into strips and spread over cores.

Every view has its axes in the order (batch, spatial..., channel), or (rows..., features) for matrices.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import Requant, Window
from lpcompile.backends.cim.views import View

I8 = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Lut:
    """y = table[x]."""

    table: bytes


@dataclass(frozen=True, slots=True)
class Rescale:
    """y = requant(x), per channel or whole."""

    requant: Requant


@dataclass(frozen=True, slots=True)
class Sum:
    """y = requant(x, other), one rounding."""

    requant: Requant


@dataclass(frozen=True, slots=True)
class Product:
    """y = requant((x - zeros[0]) * (other - zeros[1]))."""

    requant: Requant
    zeros: tuple[int, int]


Step = Lut | Rescale | Sum | Product


@dataclass(frozen=True, slots=True)
class Finish:
    """Elementwise work at the end of a layer: the step, its other operand in the layer's axes, its ONNX node."""

    step: Step
    other: View | None
    node: str


@dataclass(frozen=True, eq=False)
class SidePath:
    """A low-rank path beside a matrix product, on the hp unit: what it makes is added to the accumulators.

    Attributes:
        first: (K, r) int8, rows ordered as those of the weights.
        hidden: of its sums, to i16; the correction for the zero point of x is inside.
        second: (r, outputs) int8.
        added: of its sums, to i32.
    """

    first: I8
    hidden: Requant
    second: I8
    added: Requant


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix product over windows, or over the last axis: the work of the arrays.

    Attributes:
        name: of the ONNX node.
        x, out: u8 views; out is i32 where the accumulators themselves leave.
        window: None for matrices; its pad value is the zero point of x.
        weights: (K, outputs) int8, rows ordered (kernel..., channel).
        requant: per output; the correction for the zero point of x is inside.
        input_bits: significant bits of x.
        steps: elementwise work on each finished strip.
        macs: useful products (grouped layers hold zeros as well).
        zeros: entries of `weights` that stand between groups and are no weights of the network.
        side: its side path, if it has one.
    """

    name: str
    x: View
    out: View
    window: Window | None
    weights: I8
    requant: Requant
    input_bits: int
    macs: int
    steps: tuple[Finish, ...] = ()
    zeros: int = 0
    side: SidePath | None = None


@dataclass(frozen=True, eq=False)
class Grouped:
    """A grouped convolution before it is decided where it runs.

    Attributes:
        kernels: (groups, outputs of a group, inputs of a group, taps) int8.
    """

    name: str
    x: View
    out: View
    window: Window
    kernels: I8
    requant: Requant
    input_bits: int
    macs: int
    steps: tuple[Finish, ...] = ()


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A depthwise convolution on the hp unit: weights (taps, channels, multiplier) int8."""

    name: str
    x: View
    out: View
    window: Window
    weights: I8
    requant: Requant
    macs: int
    steps: tuple[Finish, ...] = ()


@dataclass(frozen=True, eq=False)
class Map:
    """Elementwise work: one step on x, which is broadcast to out's shape, and its other operand."""

    name: str
    x: View
    other: View | None
    out: View
    step: Step


@dataclass(frozen=True, eq=False)
class Pool:
    """Windows of each channel: the largest, or the sum requantised.

    Attributes:
        requants: for a sum, requantisations with the output positions that they serve, as (start, stop) along each
            spatial axis; one entry that covers all where the divisor is the same everywhere.
    """

    name: str
    x: View
    out: View
    window: Window
    kind: str
    requants: tuple[tuple[Requant, tuple[tuple[int, int], ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Move:
    """A copy between views of one shape."""

    name: str
    x: View
    out: View


@dataclass(frozen=True, eq=False)
class Fill:
    """One value everywhere in a view."""

    name: str
    out: View
    value: int


Work = Dense | Grouped | Depthwise | Map | Pool | Move | Fill


@dataclass
class Buffers:
    """Sizes of the buffers of a stage; `ports` lie in DRAM because the host reads or writes them."""

    sizes: list[int] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)

    def new(self, size: int, *, port: bool = False) -> int:
        """Number of a new buffer."""
        self.sizes.append(size)
        if port:
            self.ports.add(len(self.sizes) - 1)
        return len(self.sizes) - 1


def reads(work: Work) -> list[View]:
    """The views that a piece of work reads."""
    if isinstance(work, Fill):
        return []
    found = [work.x]
    if isinstance(work, Map) and work.other is not None:
        found.append(work.other)
    if isinstance(work, (Dense, Grouped, Depthwise)):
        found += [f.other for f in work.steps if f.other is not None]
    return found
