"""GridSample of images in its parts: corners that are gathered, weighted by how near the place lies to each."""

from collections.abc import Sequence

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.ir.function import FunctionBuilder
from lpcompile.ir.node import Node

MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest"}


def grid_sample(node: Node, opset: int) -> FunctionProto | None:
    """Of four axes, by the nearest pixel or between four of them; None for other modes, or more axes."""
    x = node.inputs[0]
    mode = MODES.get(_text(node, "mode", "linear"))
    if mode is None or x is None or x.shape is None or len(x.shape) != 4:
        return None
    b = FunctionBuilder("GridSample", ["image", "grid"], ["y"], "")
    build = _Build(b, np.dtype(x.dtype or np.float32))
    places = [build.place(node, axis) for axis in range(2)]  # along the width, along the height
    padded = _text(node, "padding_mode", "zeros") == "zeros"
    if mode == "nearest":
        y = build.corner([b.op("Round", p) for p in places], None, padded=padded)
    else:
        low = [b.op("Floor", p) for p in places]
        high = [b.op("Add", p, build.number(1.0)) for p in low]
        beyond = [b.op("Sub", p, q) for p, q in zip(places, low, strict=True)]
        near = [b.op("Sub", build.number(1.0), p) for p in beyond]
        corners = [
            build.corner([xs, ys], b.op("Mul", wx, wy), padded=padded)
            for xs, wx in ((low[0], near[0]), (high[0], beyond[0]))
            for ys, wy in ((low[1], near[1]), (high[1], beyond[1]))
        ]
        y = b.op("Add", b.op("Add", *corners[:2]), b.op("Add", *corners[2:]))
    build.shaped(y)
    return b.build(opset)


def _text(node: Node, name: str, default: str) -> str:
    value = node.attrs.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


class _Build:
    """Nodes over places (N, P) of the output, P = height x width of it."""

    def __init__(self, b: FunctionBuilder, kind: np.dtype) -> None:
        self._b, self._kind = b, kind
        shape, grid = b.op("Shape", "image"), b.op("Shape", "grid")
        self._channels, height, width = (self._at(shape, i) for i in range(1, 4))
        self._sizes = [width, height]
        self._real = [b.op("Cast", size, to=_onnx(kind)) for size in self._sizes]
        self._out = [self._at(grid, i) for i in (1, 2)]
        self._flat = b.op("Reshape", "image", self._ints(0, 0, -1))

    def number(self, number: float) -> str:
        """A scalar of the image's type."""
        return self._b.constant(np.array(number, self._kind))

    def place(self, node: Node, axis: int) -> str:
        """Where the grid points along an axis, in pixels, (N, P)."""
        b, size = self._b, self._real[axis]
        g = b.op("Gather", "grid", b.constant(np.array(axis, np.int64)), axis=3)
        g = b.op("Reshape", g, self._ints(0, -1))
        last = b.op("Sub", size, self.number(1.0))
        aligned = bool(node.attrs.get("align_corners", 0))
        half = b.op("Mul", b.op("Add", g, self.number(1.0)), self.number(0.5))
        at = b.op("Mul", half, last) if aligned else b.op("Sub", b.op("Mul", half, size), self.number(0.5))
        mode = _text(node, "padding_mode", "zeros")
        if mode == "reflection":
            at = self._reflected(at, size, aligned=aligned)
        return at if mode == "zeros" else b.op("Min", b.op("Max", at, self.number(0.0)), last)

    def _reflected(self, at: str, size: str, *, aligned: bool) -> str:
        """Back and forth between the first and the last pixel, or their outer edges."""
        b = self._b
        low = self.number(0.0 if aligned else -0.5)
        span = b.op("Sub", size, self.number(1.0)) if aligned else size
        span = b.op("Max", span, self.number(1e-6))
        way = b.op("Abs", b.op("Sub", at, low))
        times = b.op("Floor", b.op("Div", way, span))
        rest = b.op("Sub", way, b.op("Mul", times, span))
        halves = b.op("Mul", times, self.number(0.5))
        even = b.op("Equal", b.op("Floor", halves), halves)
        return b.op("Add", b.op("Where", even, rest, b.op("Sub", span, rest)), low)

    def corner(self, at: Sequence[str], weight: str | None, *, padded: bool) -> str:
        """The pixels at whole places, times weights, (N, C, P); zeros outside where `padded`."""
        b, inside, indices = self._b, list[str](), list[str]()
        for p, size, real in zip(at, self._sizes, self._real, strict=True):
            last = b.op("Sub", size, self._ints(1))
            whole = b.op("Cast", p, to=TensorProto.INT64)
            indices.append(b.op("Min", b.op("Max", whole, self._ints(0)), last))
            inside.append(b.op("And", b.op("Less", p, real), b.op("Less", self.number(-1.0), p)))
        index = b.op("Add", b.op("Mul", indices[1], self._sizes[0]), indices[0])
        index = b.op("Unsqueeze", index, self._ints(1))
        count = b.op("Mul", *self._out)
        every = b.op("Expand", index, b.op("Concat", self._ints(1), self._channels, count, axis=0))
        found = b.op("GatherElements", self._flat, every, axis=2)
        if padded:
            seen = b.op("Cast", b.op("And", *inside), to=_onnx(self._kind))
            weight = seen if weight is None else b.op("Mul", weight, seen)
        return found if weight is None else b.op("Mul", found, b.op("Unsqueeze", weight, self._ints(1)))

    def shaped(self, y: str) -> None:
        """The output, (N, C, H, W)."""
        self._b.op("Reshape", y, self._b.op("Concat", self._ints(0, 0), *self._out, axis=0), out="y")

    def _ints(self, *numbers: int) -> str:
        return self._b.constant(np.array(numbers, np.int64))

    def _at(self, shape: str, axis: int) -> str:
        return self._b.op("Gather", shape, self._ints(axis))


def _onnx(kind: np.dtype) -> int:
    return int(TensorProto.DOUBLE if kind == np.float64 else TensorProto.FLOAT)
