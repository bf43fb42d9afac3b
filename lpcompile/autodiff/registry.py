"""Operators that can be differentiated: each has one vector-Jacobian rule, found by its name."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Gradient = Value | None
# (builder, node, gradient of each output, which inputs are wanted) -> gradient of each input; None where there is none.
Rule = Callable[[GradientBuilder, Node, Sequence[Gradient], Sequence[bool]], Sequence[Gradient]]

FAMILIES = (
    "activations",
    "arithmetic",
    "casting",
    "convolution",
    "defined",
    "einsum",
    "fake_quantise",
    "gathering",
    "joining",
    "matrix",
    "movement",
    "normalisation",
    "norms",
    "pooling",
    "powers",
    "recurrent",
    "reductions",
    "resize",
    "selection",
    "slicing",
    "softmax",
    "transposed_convolution",
)
# Outputs that are piecewise constant, or no real numbers: nothing flows back through them.
STOPS = frozenset({
    "And", "ArgMax", "ArgMin", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil",
    "Constant", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax", "IsInf",
    "IsNaN", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "RandomNormal",
    "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Range", "Round", "Shape", "Sign", "Size", "Unique", "Xor",
})  # fmt: skip
# Operators whose integer outputs carry gradients: those of the numbers that were rounded.
ROUNDINGS = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})
_RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Decorator: the rule of these operators."""

    def register(function: Rule) -> Rule:
        for op in ops:
            assert (domain, op) not in _RULES, f"two rules for {op}"
            _RULES[domain, op] = function
        return function

    return register


@cache
def rules() -> dict[tuple[str, str], Rule]:
    """Every rule by (domain, operator)."""
    for family in FAMILIES:
        import_module(f"lpcompile.autodiff.rules.{family}")
    return dict(_RULES)


def rule_of(node: Node) -> Rule | None:
    """The rule of a node's operator; None where it has none."""
    return rules().get((node.domain, node.op))


def operators() -> list[str]:
    """Names of the operators that have a rule, sorted, those of other domains as "domain::op"."""
    return sorted(f"{domain}::{op}" if domain else op for domain, op in rules())


def stops(node: Node) -> bool:
    """Whether nothing flows back through a node, whatever it reads."""
    return not node.domain and node.op in STOPS
