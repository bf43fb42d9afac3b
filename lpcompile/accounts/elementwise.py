"""Nodes that work number by number: functions, sums and products of tensors, comparisons, conversions."""

import math
from collections.abc import Callable, Mapping

from lpcompile.accounts import functions as f
from lpcompile.accounts.functions import Recipe
from lpcompile.accounts.sizes import dims_of, elements, width_of
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import Kind, Operation
from lpcompile.analysis.cost_classes import ACTIVATION, NORM, OTHER, RESIDUAL, SCALE
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Rule = Callable[[Node, Spending], None]
GATES = (*f.ACTIVATIONS, "Clip", "Gelu", "Softmax")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def first(node: Node) -> Value | None:
    """The first output."""
    return node.outputs[0] if node.outputs else None


def _function(recipe: Recipe, name: str) -> Rule:
    def rule(node: Node, s: Spending) -> None:
        s.spend(s.role(name), recipe, elements(first(node)))

    return rule


def _gelu(node: Node, s: Spending) -> None:
    tanh = node.attrs.get("approximate", "none") in ("tanh", b"tanh")
    s.spend(ACTIVATION, f.GELU_TANH if tanh else f.GELU, elements(first(node)))


def _clip(node: Node, s: Spending) -> None:
    ends = sum(v is not None for v in node.inputs[1:3]) + sum(
        abs(float(node.attrs[k])) < 3e38 for k in ("min", "max") if k in node.attrs
    )
    s.spend(s.role(OTHER), f.COMPARE, ends * elements(first(node)))


def _sum(node: Node, s: Spending) -> None:
    s.spend(s.role(_class_of_sum(node)), f.ADD, elements(first(node)))


def _product(node: Node, s: Spending) -> None:
    recipe = f.DIVIDE if node.op == "Div" else f.MULTIPLY
    s.spend(s.role(class_of_product(node)), recipe, elements(first(node)))


def _class_of_sum(node: Node) -> str:
    """A bias after a layer is no norm, and a mask or a table of positions no residual."""
    data, constant = _data_and_constant(node)
    if constant is None:
        return RESIDUAL if len({tuple(dims_of(v)) for v in data}) == 1 else OTHER
    maker = data[0].producer if data else None
    biased = maker is not None and maker.op in _LAYERS
    return NORM if _by_channel(constant) and not biased else OTHER


def class_of_product(node: Node) -> str:
    """Of a Mul or Div: scale, norm by channel, a gate that belongs to its activation, or none of them."""
    data, constant = _data_and_constant(node)
    if constant is None:
        makers = [v.producer for v in data]
        return ACTIVATION if any(m is not None and m.op in GATES for m in makers) else OTHER
    return SCALE if elements(constant) == 1 else NORM if _by_channel(constant) else OTHER


def _data_and_constant(node: Node) -> tuple[list[Value], Value | None]:
    values = [v for v in node.inputs[:2] if v is not None]
    constants = [v for v in values if v.is_constant]
    return [v for v in values if not v.is_constant], constants[0] if constants else None


def _by_channel(constant: Value) -> bool:
    return sum(n != 1 for n in constant.dims) == 1


def _several(recipe: Recipe, name: str) -> Rule:
    """An operator of any number of inputs, of two at a time."""

    def rule(node: Node, s: Spending) -> None:
        s.spend(s.role(name), recipe, (len(node.inputs) - 1) * elements(first(node)))

    return rule


def _mean(node: Node, s: Spending) -> None:
    _several(f.ADD, RESIDUAL)(node, s)
    s.spend(OTHER, f.MULTIPLY, elements(first(node)))


def _pow(node: Node, s: Spending) -> None:
    exponent = node.inputs[1]
    known = exponent is not None and exponent.is_constant and elements(exponent) == 1
    value = float(exponent.values.reshape(())) if known and exponent is not None else None
    s.spend(s.role(OTHER), f.power(value), elements(first(node)))


def _cast(node: Node, s: Spending) -> None:
    """A conversion to integers rounds, one from integers shifts to the leading bit; others only move bits."""
    (_, before), (_, after) = width_of(node.inputs[0]), width_of(first(node))
    if before and not after:
        s.spend(OTHER, f.ADD, elements(first(node)))
    elif after and not before:
        s.bits = width_of(first(node))[0]
        s.spend(OTHER, f.SHIFT, elements(first(node)))


def _quantize(node: Node, s: Spending) -> None:
    quantise(s, elements(first(node)))


def quantise(s: Spending, count: int, *, measured: bool = False) -> None:
    """Numbers become integers: scaled, rounded and moved, clipped; before, where `measured`, compared for the range."""
    s.spend(SCALE, f.MULTIPLY + f.ADD + f.COMPARE + f.COMPARE, count)
    if measured:
        s.spend(SCALE, f.COMPARE + f.COMPARE, count)


def _dynamic_quantize(node: Node, s: Spending) -> None:
    quantise(s, elements(first(node)), measured=True)


def _dequantize(node: Node, s: Spending) -> None:
    bits, _ = width_of(node.inputs[0])
    dequantise(s, elements(first(node)), bits, moved=len(node.inputs) > 2 and bits < 32)


def dequantise(s: Spending, count: int, bits: int, *, moved: bool = True) -> None:
    """Integers become floats: the zero point taken off in integers, then scaled in floats."""
    if moved:
        s.add(SCALE, Operation(Kind.ADD, bits, bits), count)
    s.add(SCALE, Operation(Kind.MULTIPLY, 32, 32, floats=True), count)


def _top_k(node: Node, s: Spending) -> None:
    k = node.inputs[1] if len(node.inputs) > 1 else None
    kept = int(k.values.reshape(-1)[0]) if k is not None and k.is_constant else dims_of(first(node))[-1]
    s.spend(OTHER, f.COMPARE, elements(node.inputs[0]) * max(1, math.ceil(math.log2(kept + 1))))


RULES: Mapping[str, Rule] = {
    **{op: _function(recipe, ACTIVATION) for op, recipe in f.ACTIVATIONS.items()},
    **{op: _function(recipe, OTHER) for op, recipe in f.OTHERS.items()},
    "Add": _sum,
    "Cast": _cast,
    "CastLike": _cast,
    "Clip": _clip,
    "DequantizeLinear": _dequantize,
    "Div": _product,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Gelu": _gelu,
    "Max": _several(f.COMPARE, OTHER),
    "Mean": _mean,
    "Min": _several(f.COMPARE, OTHER),
    "Mul": _product,
    "NonZero": lambda node, s: s.spend(OTHER, f.COMPARE, elements(node.inputs[0])),
    "OneHot": _function(f.COMPARE, OTHER),
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Sub": _sum,
    "Sum": _several(f.ADD, RESIDUAL),
    "TopK": _top_k,
}
