"""Tensors of the reference graph as views, while a device stage is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lpcompile.backends.cim.program import DTYPE_BYTES, MAX_DIMS
from lpcompile.backends.cim.views import View, channels_last, packed_strides
from lpcompile.backends.cim.work import Buffers, Work
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

SPATIAL = (
    "DyadicConv",
    "AccumulateConv",
    "DyadicAveragePool",
    "DyadicGlobalAveragePool",
    "QuantNorm",
    "MaxPool",
)
DTYPES = {"uint8": "u8", "int32": "i32"}


def family(node: Node) -> str:
    """Operator of a `lpcompile` call without its suffixes; of a standard node its type."""
    return node.op.split("_")[0] if node.domain else node.op


def shape_of(value: Value) -> tuple[int, ...] | None:
    """The shape for one sample: a symbolic first axis is 1; None where another axis is not known."""
    if value.shape is None:
        return None
    first = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(value.shape)]
    return (
        tuple(int(d) for d in first if isinstance(d, int)) if all(isinstance(d, int) for d in first) else None
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor on the device: its view in the graph's axis order, and the largest code that it can hold."""

    view: View
    code_max: int


@dataclass
class StageValues:
    """What a device stage holds.

    Attributes:
        buffers: their sizes.
        held: by tensor name.
        work: what is to be done, in order.
        into: tensors that are written straight into a Concat: tensor -> (concat output, axis, first index).
        ports: tensors that the host fills or reads.
    """

    into: Mapping[str, tuple[Value, int, int]]
    ports: frozenset[str]
    buffers: Buffers = field(default_factory=Buffers)
    held: dict[str, Held] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)

    def output(self, value: Value, *, features_last: bool = False) -> View:
        """Room for a tensor: a part of the Concat that it goes to, or a buffer of its own.

        Args:
            value: the tensor.
            features_last: keep the graph's axis order (matrices); else channels stand last in memory.
        """
        if value.name in self.held:
            return self.held[value.name].view
        shape = shape_of(value)
        assert shape is not None, "stages hold only tensors of known shape"
        if value.name in self.into:
            whole, axis, first = self.into[value.name]
            room = self.output(whole)
            self.held.setdefault(whole.name, Held(room, 255))
            return room.taken(axis, first, shape[axis])
        rank = len(shape)
        order = tuple(range(rank)) if features_last else channels_last(rank)
        return self.room(shape, order, DTYPES[str(value.dtype)], port=value.name in self.ports)

    def room(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str, *, port: bool = False) -> View:
        """A new buffer with the axes in memory in `order`."""
        strides = packed_strides(shape, order, DTYPE_BYTES[dtype])
        size = DTYPE_BYTES[dtype]
        for n in shape:
            size *= n
        return View(self.buffers.new(size, port=port), dtype, shape, strides)

    def give(self, value: Value, view: View, code_max: int) -> None:
        """Say what a tensor is."""
        self.held[value.name] = Held(view, code_max)


def fits_device(value: Value) -> str:
    """Why a tensor cannot lie on the device; empty where it can."""
    if value.dtype is None or str(value.dtype) not in DTYPES:
        return f"tensor '{value.name}' is {value.dtype}, not codes"
    if value.shape is None or shape_of(value) is None:
        return f"the shape of tensor '{value.name}' is not known"
    if 0 in value.shape:
        return f"tensor '{value.name}' has no elements"
    if not 2 <= len(value.shape) <= MAX_DIMS:
        return f"tensor '{value.name}' has {len(value.shape)} axes"
    return ""
