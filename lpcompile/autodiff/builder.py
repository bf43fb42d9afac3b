"""Small verbs that add gradient nodes to a graph. All they add is valid from opset 13 on."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

INT64 = np.dtype(np.int64)


class GradientBuilder:
    """Adds nodes and constants to a graph; equal constants are shared.

    Attributes:
        graph: what is added to.
        prefix: of every name that is added, "prefix/Op".
    """

    def __init__(self, graph: LpGraph, prefix: str = "gradient") -> None:
        self.graph = graph
        self.prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    # nodes

    def op(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """The only output of a new node."""
        return self.ops(op, *inputs, outputs=1, **attrs)[0]

    def ops(self, op: str, *inputs: Value | None, outputs: int, **attrs: Any) -> list[Value]:
        """The outputs of a new node."""
        node = self.graph.add_node(op, inputs, outputs, name=f"{self.prefix}/{op}", attrs=attrs)
        found = [v for v in node.outputs if v is not None]
        assert len(found) == outputs
        return found

    def constant(self, array: NDArray[Any] | np.generic | Sequence[int] | int) -> Value:
        """A constant; integers become int64."""
        value = np.asarray(array)
        if value.dtype.kind == "i" or value.size == 0:
            value = value.astype(np.int64)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.graph.constant(f"{self.prefix}/constant", value)
        return self._constants[key]

    def number(self, number: float, like: Value) -> Value:
        """A scalar of the element type of `like` (float32 where that is not known)."""
        return self.constant(np.asarray(number, like.dtype or np.float32))

    def copy(self, value: Value) -> Value:
        """The same numbers under another name, so that what reads them there is differentiated apart."""
        made = self.op("Identity", value)
        self.graph.set_type(made, value.dtype, value.dims if value.is_constant else value.shape)
        return made

    # arithmetic

    def add(self, a: Value, b: Value) -> Value:
        """A + b."""
        return self._typed(self.op("Add", a, b), a)

    def sub(self, a: Value, b: Value) -> Value:
        """A - b."""
        return self._typed(self.op("Sub", a, b), a)

    def mul(self, a: Value, b: Value) -> Value:
        """A * b."""
        return self._typed(self.op("Mul", a, b), a)

    def div(self, a: Value, b: Value) -> Value:
        """A / b."""
        return self._typed(self.op("Div", a, b), a)

    def neg(self, a: Value) -> Value:
        """-a."""
        return self._typed(self.op("Neg", a), a)

    def scale(self, a: Value, number: float) -> Value:
        """A * number."""
        return a if number == 1 else self.mul(a, self.number(number, a))

    def matmul(self, a: Value, b: Value) -> Value:
        """A @ b."""
        return self._typed(self.op("MatMul", a, b), a)

    def transpose(self, a: Value, perm: Sequence[int]) -> Value:
        """Axes in another order."""
        return self._typed(self.op("Transpose", a, perm=list(perm)), a)

    def sum(self, a: Value, axes: Sequence[int], *, keepdims: bool = False) -> Value:
        """Sum over axes; none of them: `a` itself."""
        if not axes:
            return a
        return self._typed(self.op("ReduceSum", a, self.constant(list(axes)), keepdims=int(keepdims)), a)

    def mean(self, a: Value, axes: Sequence[int]) -> Value:
        """Mean over axes, which stay as ones. Axes became an input in opset 18."""
        if self.graph.opset < 18:
            return self.op("ReduceMean", a, axes=list(axes), keepdims=1)
        return self.op("ReduceMean", a, self.constant(list(axes)), keepdims=1)

    def cast(self, a: Value, dtype: np.dtype[Any]) -> Value:
        """The values in another element type."""
        import onnx

        cast = self.op("Cast", a, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        self.graph.set_type(cast, dtype, a.shape)
        return cast

    def gated(self, gradient: Value, condition: Value) -> Value:
        """The gradient where a condition holds, else 0 times it.

        ONNX Runtime multiplies several times faster than it chooses between numbers (Where) by a condition
        that follows no pattern, such as the sign of an activation.
        """
        return self.mul(gradient, self.cast(condition, gradient.dtype or np.dtype(np.float32)))

    def masked(self, gradient: Value, condition: Value) -> Value:
        """The gradient where a condition holds, else 0 (whatever the gradient is there, NaN too)."""
        return self._typed(self.op("Where", condition, gradient, self.number(0.0, gradient)), gradient)

    def apply(self, op: str, a: Value, *others: Value | None, **attrs: Any) -> Value:
        """A node of one output, of the element type of its first input."""
        return self._typed(self.op(op, a, *others, **attrs), a)

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """`a` where a condition holds, else `b`."""
        return self._typed(self.op("Where", condition, a, b), a)

    def greater(self, a: Value, number: float) -> Value:
        """Whether a > number."""
        return self.op("Greater", a, self.number(number, a))

    # shapes

    def shape(self, a: Value) -> Value:
        """The shape of a tensor, a constant where it is known."""
        known = static_shape(a)
        return self.op("Shape", a) if known is None else self.constant(list(known))

    def reshape(self, a: Value, shape: Value | Sequence[int]) -> Value:
        """The elements in another shape (0 copies a dimension, -1 is what is left)."""
        target = shape if isinstance(shape, Value) else self.constant(list(shape))
        return self._typed(self.op("Reshape", a, target), a)

    def reshape_like(self, a: Value, like: Value) -> Value:
        """The elements in the shape of another tensor."""
        if same_shape(a, like):
            return a
        return self.with_shape(self.op("Reshape", a, self.shape(like)), like)

    def expand_like(self, a: Value, like: Value) -> Value:
        """`a` broadcast to the shape of another tensor."""
        if same_shape(a, like):
            return a
        return self.with_shape(self.op("Expand", a, self.shape(like)), like)

    def sum_to(self, gradient: Value, x: Value) -> Value:
        """The gradient of an operand that was broadcast: summed over the axes along which it was repeated.

        What the shapes do not say is decided at run time.
        """
        if same_shape(gradient, x):
            return gradient
        gs, xs = gradient.shape, x.shape
        if gs is not None and xs is not None and len(xs) <= len(gs):
            lead = len(gs) - len(xs)
            axes = list(range(lead))
            certain = True
            for i, (g, d) in enumerate(zip(gs[lead:], xs, strict=True)):
                if d == 1:
                    axes += [lead + i] if g != 1 else []
                elif not (d == g and d is not None) and not (isinstance(d, int) and d > 1):
                    certain = False
            if certain:
                summed = self.op("ReduceSum", gradient, self.constant(axes), keepdims=1) if axes else gradient
                return self.with_shape(self.op("Reshape", summed, self.shape(x)) if lead else summed, x)
        return self._sum_at_run_time(gradient, x)

    def _sum_at_run_time(self, gradient: Value, x: Value) -> Value:
        rank = self.op("Size", self.op("Shape", gradient))
        own = self.op("Size", self.op("Shape", x))
        lead = self.op("Unsqueeze", self.op("Sub", rank, own), self.constant([0]))
        one = self.constant([1])
        padded = self.op("Concat", self.op("Expand", one, lead), self.op("Shape", x), axis=0)
        repeated = self.op("Not", self.op("Equal", padded, self.op("Shape", gradient)))
        axes = self.op("Reshape", self.op("NonZero", repeated), self.constant([-1]))
        summed = self.op("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)
        return self.with_shape(self.op("Reshape", summed, self.op("Shape", x)), x)

    def with_shape(self, a: Value, like: Value) -> Value:
        """`a`, declared to be of type and shape of `like`; only for tensors that were added here."""
        if not a.is_constant:
            self.graph.set_type(a, like.dtype, like.dims if like.is_constant else like.shape)
        return a

    def with_type(self, a: Value, like: Value) -> Value:
        """`a`, declared to be of the type of `like`; only for tensors that were added here."""
        return self._typed(a, like)

    def zeros_like(self, a: Value) -> Value:
        """Zeros of type and shape of a tensor."""
        return self.with_shape(self.op("Expand", self.number(0.0, a), self.shape(a)), a)

    def dim(self, a: Value, axis: int) -> int | Value:
        """One dimension: a number where it is known, else a vector of one element; axis may be negative."""
        shape = a.dims if a.is_constant else a.shape
        known = shape[axis] if shape is not None else None
        return known if isinstance(known, int) else self.op("Gather", self.shape(a), self.constant([axis]))

    def vector(self, parts: Sequence[int | Value]) -> Value:
        """One int64 vector of numbers and vectors."""
        joined: list[list[int] | Value] = []
        for part in parts:
            if isinstance(part, Value):
                joined.append(part)
            elif joined and isinstance(joined[-1], list):
                joined[-1].append(part)
            else:
                joined.append([part])
        values = [p if isinstance(p, Value) else self.constant(p) for p in joined]
        if not values:
            return self.constant([])
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=0)

    def product(self, parts: Sequence[int | Value]) -> int | Value:
        """Product of numbers and vectors of one element, such as those of `dim`."""
        number = math.prod(p for p in parts if isinstance(p, int))
        found: Value | None = None
        for part in parts:
            if isinstance(part, Value):
                found = part if found is None else self.op("Mul", found, part)
        if found is None:
            return number
        return found if number == 1 else self.op("Mul", found, self.constant([number]))

    def _typed(self, result: Value, like: Value) -> Value:
        self.graph.set_type(result, like.dtype, None)
        return result


def static_shape(a: Value) -> tuple[int, ...] | None:
    """The shape, where every dimension is a number."""
    shape = a.dims if a.is_constant else a.shape
    if shape is None or any(not isinstance(d, int) for d in shape):
        return None
    return tuple(int(d) for d in shape if isinstance(d, int))


def same_shape(a: Value, b: Value) -> bool:
    """Whether two tensors are known to have one shape: equal numbers, or symbols of one name."""
    sa, sb = (a.dims if a.is_constant else a.shape), (b.dims if b.is_constant else b.shape)
    return sa is not None and sa == sb and None not in sa


def rank_of(a: Value) -> int | None:
    """Number of axes, where it is known."""
    shape = a.dims if a.is_constant else a.shape
    return None if shape is None else len(shape)
