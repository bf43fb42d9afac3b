"""Nodes of multiply-accumulates that are no layers of the plan: products of activations, recurrent cells, integers."""

from collections import Counter
from collections.abc import Mapping
from math import prod

from lpcompile.accounts import functions as f
from lpcompile.accounts.elementwise import Rule, first
from lpcompile.accounts.sizes import UnknownSizeError, dims_of, elements, width_of
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import ACCUMULATOR_BITS, Kind, Operation
from lpcompile.analysis.cost_classes import ACTIVATION, MAC, OTHER, SCALE, SOFTMAX
from lpcompile.assignment.requantisation import FLOAT
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_LSTM = Counter[Kind]({k: 3 * n for k, n in f.SIGMOID.items()}) + f.TANH + f.TANH
_GRU = Counter[Kind]({k: 2 * n for k, n in f.SIGMOID.items()}) + f.TANH
_THREE = Counter[Kind]({Kind.MULTIPLY: 3})
# gates of a cell, and what a step does with each hidden number beside its products
CELLS: Mapping[str, tuple[int, f.Recipe]] = {
    "LSTM": (4, _LSTM + _THREE + f.ADD),
    "GRU": (3, _GRU + _THREE + f.ADD + f.ADD),
    "RNN": (1, f.TANH),
}


def _matmul(node: Node, s: Spending) -> None:
    s.products(MAC, elements(first(node)) * dims_of(node.inputs[0])[-1])


def _gemm(node: Node, s: Spending) -> None:
    inner = dims_of(node.inputs[0])[0 if node.attrs.get("transA", 0) else 1]
    s.products(MAC, elements(first(node)) * inner)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        s.spend(OTHER, f.ADD, elements(first(node)))


def _conv(node: Node, s: Spending) -> None:
    s.products(MAC, _conv_macs(node, node.inputs[1]))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        s.spend(OTHER, f.ADD, elements(first(node)))


def _conv_macs(node: Node, weight: Value | None) -> int:
    shape = dims_of(weight)
    if (
        node.op == "ConvTranspose"
    ):  # every input meets every output channel of its group under the whole kernel
        return elements(node.inputs[0]) * prod(shape[1:])
    return elements(first(node)) * prod(shape[1:])


def _einsum(node: Node, s: Spending) -> None:
    """Every combination of indices is one product, of two operands."""
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms = text.partition("->")[0].split(",")
    if "..." in text or len(terms) != 2:
        raise UnknownSizeError(f"the products of '{text}' are not counted")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        sizes.update(zip(term, dims_of(value), strict=True))
    s.products(MAC, prod(sizes.values()))


def _attention(node: Node, s: Spending) -> None:
    """softmax(scale * Q K^T + mask) V; keys of the past among them."""
    q, k, v, mask, past = (*node.inputs, *[None] * 5)[:5]
    if len(dims_of(q)) == 4:
        batch, heads, queries, width = dims_of(q)
        keys, values = dims_of(k)[2], dims_of(v)[3]
    else:
        batch, queries, total = dims_of(q)
        heads = int(node.attrs["q_num_heads"])
        width, keys = total // heads, dims_of(k)[1]
        values = dims_of(v)[2] // int(node.attrs["kv_num_heads"])
    keys += 0 if past is None else dims_of(past)[2]
    scores = batch * heads * queries * keys
    s.products(MAC, scores * (width + values))
    s.spend(SCALE, f.MULTIPLY, scores)
    if mask is not None:
        s.spend(OTHER, f.ADD, scores)
    s.spend(SOFTMAX, f.SOFTMAX, scores)


def _recurrent(node: Node, s: Spending) -> None:
    """All steps of all directions."""
    gates, others = CELLS[node.op]
    x, weight, recurrence = (*node.inputs, None, None, None)[:3]
    steps, batch = dims_of(x)[:2]
    directions, rows, inputs = dims_of(weight)
    hidden = rows // gates
    times = steps * batch * directions
    if dims_of(recurrence) != [directions, rows, hidden]:
        raise UnknownSizeError("its weights do not fit together")
    s.products(MAC, times * rows * (inputs + hidden))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        s.spend(OTHER, f.ADD, times * rows)
    s.spend(ACTIVATION, others, times * hidden)


def _integer(node: Node, s: Spending) -> None:
    """ConvInteger and MatMulInteger: sums alone."""
    x, w = node.inputs[:2]
    _of_integers(node, s, x, w)


def _q_linear(node: Node, s: Spending) -> None:
    """QLinearConv and QLinearMatMul: sums, one scale and offset, a clip."""
    x, w = node.inputs[0], node.inputs[3]
    _of_integers(node, s, x, w)
    outputs = elements(first(node))
    for operation in FLOAT.operations():
        s.add(SCALE, operation, outputs)
    s.add(SCALE, Operation(Kind.COMPARE, ACCUMULATOR_BITS, ACCUMULATOR_BITS, floats=True), 2 * outputs)


def _of_integers(node: Node, s: Spending, x: Value | None, w: Value | None) -> None:
    convolves = "Conv" in node.op
    macs = _conv_macs(node, w) if convolves else elements(first(node)) * dims_of(x)[-1]
    s.products(MAC, macs, width_of(w)[0], width_of(x)[0])


RULES: Mapping[str, Rule] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvInteger": _integer,
    "ConvTranspose": _conv,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _integer,
    "QLinearConv": _q_linear,
    "QLinearMatMul": _q_linear,
    "RNN": _recurrent,
}
