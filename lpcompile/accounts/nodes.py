"""What a float node costs, by operator; operators that nobody knows are named, never counted as nothing."""

from collections.abc import Mapping

from lpcompile.accounts import aggregation, elementwise, products
from lpcompile.accounts import functions as f
from lpcompile.accounts.elementwise import Rule, first
from lpcompile.accounts.entries import Entry
from lpcompile.accounts.sizes import UnknownSizeError, dims_of, nbytes
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.cost_classes import SCALE
from lpcompile.assignment.layer_facts import FLOAT_BITS, LayerFacts, LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import Work as LayerWork
from lpcompile.assignment.layer_operations import ace, layer_operations
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.ir.movement import DATA_INPUTS
from lpcompile.ir.node import Node

RULES: Mapping[str, Rule] = {**elementwise.RULES, **aggregation.RULES, **products.RULES}
# The same numbers under another shape or name.
VIEWS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
# Numbers that are moved or selected.
MOVES = frozenset(
    {
        *DATA_INPUTS, "BitCast", "CenterCropPad", "Compress", "ConstantOfShape", "EyeLike", "GatherElements",
        "GatherND", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "TensorScatter",
    } - {*VIEWS, "MaxPool", "Resize"}
)  # fmt: skip


class UnknownOperatorError(LookupError):
    """An operator without a rule."""


def has_rule(node: Node) -> bool:
    """Whether an operator is counted by a rule of its own."""
    return not node.domain and (node.op in RULES or node.op in VIEWS or node.op in MOVES)


def float_entry(node: Node, *, in_activation: bool = False) -> Entry:
    """What a node without a plan costs.

    Raises:
        UnknownOperatorError: no rule, or a domain of its own.
        UnknownSizeError: a size that a call decides.
    """
    if node.domain:
        raise UnknownOperatorError(f"operator {node.operator} is not known")
    if node.op in VIEWS:
        return Entry(node.name, node.op)
    if node.op in MOVES and node.attrs.get("reduction", "none") in ("none", b"none"):
        written = sum(nbytes(v) for v in node.outputs)
        return Entry(node.name, node.op, bytes=2 * written)  # it reads as much
    if node.op not in RULES:
        raise UnknownOperatorError(f"operator {node.op} is not known")
    spending = Spending.of(node, in_activation=in_activation)
    RULES[node.op](node, spending)
    moved = sum(nbytes(v) for v in (*node.inputs, *node.outputs))
    return Entry(node.name, node.op, spending.work, spending.ace, moved)


def float_layer_entry(node: Node) -> Entry:
    """A layer with constant weights that multiplies floats: as its candidates are counted.

    Raises:
        UnknownSizeError: a size that a call decides.
    """
    facts, moved = layer_facts(node), nbytes(node.inputs[0]) + nbytes(first(node))
    return layer_entry(node, facts, facts.left_alone, layer_operations(facts, facts.left_alone), moved)


def layer_entry(
    node: Node, facts: LayerFacts, held: LayerFormat, work: LayerWork, activation_bytes: int
) -> Entry:
    """A layer whose work is counted already: each tensor moved once, weights, scales and biases as they are stored.

    Args:
        node: the layer.
        facts: of it.
        held: its weights.
        work: of a call.
        activation_bytes: of what it reads and writes.

    Raises:
        UnknownSizeError: a size that a call decides.
    """
    if not facts.macs and 0 not in dims_of(node.inputs[1]):
        raise UnknownSizeError("its shape is not known")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    moved = activation_bytes + stored_bits(facts, held) // 8 + nbytes(bias)
    s = Spending(FLOAT_BITS.get(facts.dtype, 32))
    s.merge(work)
    if node.op == "Gemm" and float(node.attrs.get("alpha", 1.0)) != 1.0:
        s.spend(SCALE, f.MULTIPLY, facts.output_elements)
    return Entry(node.name, node.op, s.work, ace(facts, held), moved)
