"""Rule of `canonicalize`: an Einsum of a tensor and a constant is a MatMul, which is a layer with weights.

Attention that is written by Einsum keeps its projections in tensors of three axes: btd,dhe->bhte is x (B, T, D) times
(D, H * E), reshaped to (B, T, H, E) and transposed. Axes of x that are summed over move to its end and become one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import dim_of, is_single_or_half, output_at, rank_of
from lpcompile.passes.node_replacement import put_instead
from lpcompile.records import PassReport

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_REST = "..."


@dataclass(frozen=True)
class _Product:
    """Letters of the axes of one product.

    Attributes:
        x: of the tensor.
        w: of the constant.
        y: of the result.
    """

    x: str
    w: str
    y: str

    @property
    def summed(self) -> str:
        """In the order of x."""
        return "".join(c for c in self.x if c in self.w)

    @property
    def free(self) -> str:
        """Of x alone, in its order."""
        return "".join(c for c in self.x if c not in self.w)

    @property
    def new(self) -> str:
        """Of the constant alone, in the order of the result."""
        return "".join(c for c in self.y if c in self.w)

    @property
    def plain(self) -> bool:
        """Whether every axis is either summed over or kept, and something of each kind is there."""
        once = all(len(set(term)) == len(term) for term in (self.x, self.w, self.y))
        kept = sorted(self.free + self.new) == sorted(self.y) and set(self.w) == {*self.summed, *self.new}
        return (
            once and kept and not set(self.summed) & set(self.y) and all((self.summed, self.free, self.new))
        )


def einsum_to_matmul(graph: LpGraph, report: PassReport) -> None:
    """Spell products of a tensor and constant weights as MatMul."""
    made: dict[tuple[Value, tuple[int, ...], int], Value] = {}  # layers that share a weight go on sharing
    for node in graph.nodes("Einsum"):
        if len(node.inputs) != 2:
            continue
        constant = [v is not None and v.is_constant for v in node.inputs]
        if sum(constant) != 1:
            continue
        side = constant.index(True)
        w, x = node.inputs[side], node.inputs[1 - side]
        if w is None or x is None or rank_of(x) is None or not is_single_or_half(w) or 0 in w.dims:
            continue
        product = _product(str(node.attrs.get("equation", "")), side, (rank_of(x) or 0, len(w.dims)))
        if product is None:
            report.skip(node, "its equation is no product of a matrix")
        elif any(dim_of(x, product.x.index(c)) != w.dims[product.w.index(c)] for c in product.summed):
            report.skip(node, "sizes of what is summed over are not known")
        else:
            order = tuple(product.w.index(c) for c in product.summed + product.new)
            key = (w, order, len(product.summed))
            if key not in made:
                made[key] = _matrix(graph, *key)
            _write(graph, node, x, made[key], product, dict(zip(product.w, w.dims, strict=True)))
            report.change(node, "Einsum spelled as MatMul")


def _product(equation: str, side: int, ranks: tuple[int, int]) -> _Product | None:
    """The letters of an equation, those that `...` stands for made up; None where it is no plain product."""
    left, arrow, y = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2:
        return None
    x, w = terms[1 - side], terms[side]
    if _REST in x:
        unused = [c for c in _LETTERS if c not in equation]
        rest = "".join(unused[: ranks[0] - len(x) + len(_REST)])
        x, y = x.replace(_REST, rest), y.replace(_REST, rest)
    if "." in x + w + y or (len(x), len(w)) != ranks:
        return None
    found = _Product(x, w, y)
    return found if found.plain else None


def _matrix(graph: LpGraph, w: Value, order: tuple[int, ...], summed: int) -> Value:
    rows = math.prod(w.dims[i] for i in order[:summed])
    return graph.constant(
        f"{w.name}/matrix", np.ascontiguousarray(w.values.transpose(order).reshape(rows, -1))
    )


def _write(
    graph: LpGraph, node: Node, x: Value, matrix: Value, product: _Product, sizes: Mapping[str, int]
) -> None:
    """Put the product in the place of a node; `sizes` are those of the axes of the constant."""
    k, n = matrix.dims
    free = tuple(d for c, d in zip(product.x, x.shape or (), strict=True) if c in product.free)
    value = x
    if product.x != product.free + product.summed:
        value = _transposed(graph, node, value, product.x, product.free + product.summed)
    if len(product.summed) > 1:
        value = _reshaped(graph, node, value, free, [k])
    steps = [product.free + product.new != product.y, len(product.new) > 1]
    if not any(steps):
        put_instead(graph, node, "MatMul", [value, matrix])
        return
    made = graph.add_node("MatMul", [value, matrix], before=node, metadata=dict(node.metadata))
    value = _typed(graph, made, x, (*free, n))
    reached = product.free + product.new
    target = [0] * len(free) + [sizes[c] for c in product.new]
    if not steps[0]:
        put_instead(graph, node, "Reshape", [value, graph.constant(f"{node.name}/shape", np.array(target))])
        return
    if steps[1]:
        value = _reshaped(graph, node, value, free, target[len(free) :])
    put_instead(graph, node, "Transpose", [value], {"perm": [reached.index(c) for c in product.y]})


def _transposed(graph: LpGraph, node: Node, value: Value, now: str, then: str) -> Value:
    perm = [now.index(c) for c in then]
    shape = value.shape or ()
    made = graph.add_node("Transpose", [value], attrs={"perm": perm}, before=node)
    return _typed(graph, made, value, tuple(shape[i] for i in perm))


def _reshaped(graph: LpGraph, node: Node, value: Value, free: Shape, last: Sequence[int]) -> Value:
    """The first axes as they are, the others in other sizes."""
    target = graph.constant(f"{node.name}/shape", np.array([0] * len(free) + list(last)))
    made = graph.add_node("Reshape", [value, target], before=node)
    return _typed(graph, made, value, (*free, *last))


def _typed(graph: LpGraph, node: Node, like: Value, shape: Shape) -> Value:
    value = output_at(node)
    graph.set_type(value, like.dtype, shape)
    return value
