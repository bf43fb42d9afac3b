"""What is known of small integer tensors computed from shapes, some dimensions being symbolic.

`Shape -> Gather -> Concat -> Reshape` is a constant where the dimensions it picks are static, and a
constant with 0 ("as before") or -1 ("the rest") where all but these are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import elements, input_at, ints_of, is_settled, output_at

Dim = int | str | None  # a number, a dimension by its name, or unknown

_LONGEST = 64
# Shape inference gives every unknown dimension a name of its own and hands it on unchanged.
_MADE_BY_INFERENCE = re.compile(r"unk__\d+")


@dataclass(frozen=True, slots=True)
class Dims:
    """A tensor of integers of rank 0 or 1.

    Attributes:
        items: its elements in order.
        is_scalar: whether its rank is 0.
    """

    items: tuple[Dim, ...]
    is_scalar: bool = False

    @property
    def numbers(self) -> list[int] | None:
        """The elements where all are known."""
        found = [i for i in self.items if isinstance(i, int)]
        return found if len(found) == len(self.items) else None


class ShapeArithmetic:
    """Evaluates the shape computations of one graph as far as they are known."""

    def __init__(self, graph: LpGraph) -> None:
        self._names = trusted_names(graph)
        self._known: dict[Value, Dims | None] = {}
        for node in graph.nodes(*_RULES):
            self._known[output_at(node)] = _RULES[node.op](self, node)

    def of(self, value: Value | None) -> Dims | None:
        """The elements of a tensor; None where it is no small integer tensor or nothing is known of it."""
        if value is None:
            return None
        if not value.is_constant:
            return self._known.get(value)
        count = elements(value)
        if value.dtype is None or value.dtype.kind not in "iu" or count is None or count > _LONGEST:
            return None
        shape = value.shape or ()
        return None if len(shape) > 1 else Dims(tuple(int(i) for i in value.values.reshape(-1)), not shape)

    def dims_of(self, value: Value | None) -> tuple[Dim, ...] | None:
        """The shape of a tensor; names that may stand for different sizes count as unknown."""
        if value is None or value.shape is None:
            return None
        return tuple(d if isinstance(d, int) or self._is_trusted(d) else None for d in value.shape)

    def _is_trusted(self, name: str | None) -> bool:
        return name is not None and (name in self._names or _MADE_BY_INFERENCE.fullmatch(name) is not None)


def trusted_names(graph: LpGraph) -> frozenset[str]:
    """Symbolic dimensions of the graph inputs that name one size; none that one has twice or is vague."""
    found: set[str] = set()
    vague = {"none", "unk", "unknown", "dynamic", "dim", "any"}
    for value in graph.inputs:
        names = [d for d in value.shape or () if isinstance(d, str)]
        found.update(n for n in names if n.isidentifier() and n.lower() not in vague)
        vague.update(n.lower() for n in names if names.count(n) > 1)
    return frozenset(n for n in found if n.lower() not in vague)


def reshape_target(known: ShapeArithmetic, reshape: Node) -> list[int] | None:
    """A constant that can stand for the computed shape of a Reshape, None where too little is known of it."""
    target, source = known.of(input_at(reshape, 1)), known.dims_of(reshape.inputs[0])
    if target is None or target.is_scalar or reshape.attrs.get("allowzero", 0):
        return None
    found: list[int] = []
    for i, item in enumerate(target.items):
        if isinstance(item, int):
            found.append(item)
        elif isinstance(item, str) and source is not None and i < len(source) and source[i] == item:
            found.append(0)
        else:
            found.append(-1)
    return found if found.count(-1) <= 1 else None


def _shape(known: ShapeArithmetic, node: Node) -> Dims | None:
    dims = known.dims_of(node.inputs[0])
    return None if dims is None else Dims(dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))])


def _size(known: ShapeArithmetic, node: Node) -> Dims | None:
    source = node.inputs[0]
    count = None if source is None else elements(source)
    return None if count is None else Dims((count,), is_scalar=True)


def _same(known: ShapeArithmetic, node: Node) -> Dims | None:
    dtype = output_at(node).dtype
    return known.of(node.inputs[0]) if dtype is not None and dtype.kind in "iu" else None


def _gather(known: ShapeArithmetic, node: Node) -> Dims | None:
    data, index = known.of(node.inputs[0]), known.of(input_at(node, 1))
    if data is None or data.is_scalar or index is None or index.numbers is None:
        return None
    if any(not -len(data.items) <= i < len(data.items) for i in index.numbers):
        return None
    return Dims(tuple(data.items[i] for i in index.numbers), index.is_scalar)


def _slice(known: ShapeArithmetic, node: Node) -> Dims | None:
    data = known.of(node.inputs[0])
    if data is None or data.is_scalar or not is_settled(node, 1, 2, 3, 4):
        return None
    starts, ends = ints_of(node, "starts", 1), ints_of(node, "ends", 2)
    steps = ints_of(node, "steps", 4) or [1]
    if starts is None or ends is None or len(starts) != 1 or steps[0] <= 0:
        return None
    return Dims(data.items[starts[0] : ends[0] : steps[0]])


def _concat(known: ShapeArithmetic, node: Node) -> Dims | None:
    items: list[Dim] = []
    for value in node.inputs:
        part = known.of(value)
        if part is None:
            count = None if value is None or value.shape is None or len(value.shape) != 1 else elements(value)
            if count is None or count > _LONGEST:
                return None
            part = Dims((None,) * count)
        if part.is_scalar:
            return None
        items.extend(part.items)
    return Dims(tuple(items))


def _as_vector(known: ShapeArithmetic, node: Node) -> Dims | None:
    data = known.of(node.inputs[0])
    return replace(data, is_scalar=False) if data is not None and data.is_scalar else None


def _as_scalar(known: ShapeArithmetic, node: Node) -> Dims | None:
    data = known.of(node.inputs[0])
    return replace(data, is_scalar=True) if data is not None and len(data.items) == 1 else None


def _reshape(known: ShapeArithmetic, node: Node) -> Dims | None:
    data, target = known.of(node.inputs[0]), ints_of(node, "shape", 1) if is_settled(node, 1) else None
    if data is None or target is None or len(target) > 1:
        return None
    return replace(data, is_scalar=not target)


def _arithmetic(known: ShapeArithmetic, node: Node) -> Dims | None:
    a, b = known.of(node.inputs[0]), known.of(input_at(node, 1))
    if a is None or b is None or (len(a.items) != len(b.items) and 1 not in (len(a.items), len(b.items))):
        return None
    count = max(len(a.items), len(b.items)) if a.items and b.items else 0
    pairs = [(a.items[i % len(a.items)], b.items[i % len(b.items)]) for i in range(count)]
    return Dims(tuple(_combined(node.op, x, y) for x, y in pairs), a.is_scalar and b.is_scalar)


def _combined(op: str, x: Dim, y: Dim) -> Dim:
    if isinstance(x, int) and isinstance(y, int):
        if op == "Div":
            return None if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        return {"Add": x + y, "Sub": x - y, "Mul": x * y}[op]
    neutral = 0 if op in ("Add", "Sub") else 1
    if y == neutral:
        return x
    return y if x == neutral and op in ("Add", "Mul") else None


_RULES: dict[str, Callable[[ShapeArithmetic, Node], Dims | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _as_vector,
    "Squeeze": _as_scalar,
    "Reshape": _reshape,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _arithmetic,
}

SHAPE_OPS = tuple(_RULES)
