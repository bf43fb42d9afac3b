"""Nodes of an unrolled recurrent layer, each with its shape, which the rules of the operators read."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.ir.value import Value

Dim = int | str | None


class Unroller:
    """Adds nodes of known shape to a graph.

    Attributes:
        batch: size of the batch axis, as far as it is known.
        hidden: size of a state.
    """

    def __init__(self, b: GradientBuilder, like: Value, *, batch: Dim, hidden: int) -> None:
        self.b = b
        self.batch = batch
        self.hidden = hidden
        self._dtype = np.dtype(like.dtype or np.float32)

    def made(self, op: str, *inputs: Value, shape: Sequence[Dim], **attrs: Any) -> Value:
        """The only output of a new node, declared to be of that shape."""
        made = self.b.op(op, *inputs, **attrs)
        self.b.graph.set_type(made, self._dtype, tuple(shape))
        return made

    def number(self, number: float) -> Value:
        """A scalar."""
        return self.b.constant(np.asarray(number, self._dtype))

    def add(self, a: Value, b: Value) -> Value:
        """A + b, of the shape of a."""
        return self.made("Add", a, b, shape=_shape(a))

    def mul(self, a: Value, b: Value) -> Value:
        """A * b, of the shape of a."""
        return self.made("Mul", a, b, shape=_shape(a))

    def one_minus(self, a: Value) -> Value:
        """1 - a."""
        return self.made("Sub", self.number(1.0), a, shape=_shape(a))

    def times_transposed(self, x: Value, w: Value) -> Value:
        """X (..., K) times w (M, K), turned."""
        rows, depth = _shape(w)
        turned = self.made("Transpose", w, shape=(depth, rows), perm=[1, 0])
        return self.made("MatMul", x, turned, shape=(*_shape(x)[:-1], rows))

    def turned(self, x: Value, perm: Sequence[int]) -> Value:
        """Axes in another order."""
        shape = _shape(x)
        return self.made("Transpose", x, shape=[shape[p] for p in perm], perm=list(perm))

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        """Pieces along an axis."""
        if len(sizes) == 1:
            return [x]
        found = self.b.ops("Split", x, self.b.constant(list(sizes)), outputs=len(sizes), axis=axis)
        for piece, size in zip(found, sizes, strict=True):
            shape = list(_shape(x))
            shape[axis] = size
            self.b.graph.set_type(piece, self._dtype, tuple(shape))
        return found

    def piece(self, x: Value, axis: int, index: int, count: int) -> Value:
        """One of `count` elements of an axis, without the axis."""
        return self.squeezed(self.split(x, axis, [1] * count)[index], axis)

    def squeezed(self, x: Value, axis: int) -> Value:
        """Without an axis of length 1."""
        shape = list(_shape(x))
        del shape[axis]
        return self.made("Squeeze", x, self.b.constant([axis]), shape=shape)

    def unsqueezed(self, x: Value, axis: int) -> Value:
        """With one more axis of length 1."""
        shape = list(_shape(x))
        shape.insert(axis, 1)
        return self.made("Unsqueeze", x, self.b.constant([axis]), shape=shape)

    def joined(self, parts: Sequence[Value], axis: int) -> Value:
        """Pieces of length 1 one after the other."""
        if len(parts) == 1:
            return parts[0]
        shape = list(_shape(parts[0]))
        shape[axis] = len(parts)
        return self.made("Concat", *parts, shape=shape, axis=axis)


def _shape(x: Value) -> tuple[Dim, ...]:
    shape = x.dims if x.is_constant else x.shape
    assert shape is not None
    return tuple(shape)
