"""Einsum, as far as it is a product: no operand repeats an index.

dA = einsum(G, the other operands -> indices of A), repeated along indices of A that nobody else has
"""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.rules.arithmetic import operands
from lpcompile.autodiff.rules.windows import typed
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@rule("Einsum")
def einsum(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """Every operand's gradient is an Einsum of the others and the delta."""
    (g,) = grads
    assert g is not None
    values = operands(node, len(node.inputs))
    terms, out = _spelled(node, values)
    found: list[Gradient] = [None] * len(wanted)
    for i, x in enumerate(values):
        if wanted[i]:
            others = [j for j in range(len(values)) if j != i]
            found[i] = _operand(
                b, g, out, x, terms[i], [values[j] for j in others], [terms[j] for j in others]
            )
    return found


def _operand(
    b: GradientBuilder, g: Value, out: str, x: Value, term: str, others: Sequence[Value], names: Sequence[str]
) -> Value:
    there = set(out).union(*names)
    kept = "".join(c for c in term if c in there)
    made = typed(b, b.op("Einsum", g, *others, equation=f"{','.join([out, *names])}->{kept}"), x)
    alone = [i for i, c in enumerate(term) if c not in there]
    if alone:
        made = typed(b, b.op("Unsqueeze", made, b.constant(alone)), x)
        return b.expand_like(made, x)
    shape = x.dims if x.is_constant else x.shape
    if shape is None or any(d == 1 for d in shape):  # a length of 1 may have been broadcast
        return b.sum_to(made, x)
    return b.with_shape(made, x)


def _spelled(node: Node, values: Sequence[Value]) -> tuple[list[str], str]:
    """The indices of every operand and of the output, without dots."""
    equation = str(node.attrs["equation"]).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
        out = ("..." if "..." in left else "") + "".join(letters)
    free = [c for c in _LETTERS if c not in equation]
    width = 0
    for term, value in zip(terms, values, strict=True):
        if "..." in term:
            rank = rank_of(value)
            if rank is None:
                raise GradientError(
                    "the rank of an operand is not known", where=node.name, hint="run shape inference"
                )
            width = max(width, rank - len(term) + 3)
    spelled = []
    for term, value in zip(terms, values, strict=True):
        dots = (rank_of(value) or 0) - len(term) + 3
        spelled.append(term.replace("...", "".join(free[width - dots : width])))
    if any(len(set(term)) < len(term) for term in spelled):
        raise GradientError(
            f"Einsum {equation} repeats an index within an operand",
            where=node.name,
            hint="sensitivity can be measured forward only (--metric measured)",
        )
    return spelled, out.replace("...", "".join(free[:width]))
