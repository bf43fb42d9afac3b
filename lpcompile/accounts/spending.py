"""Collects what one node does, at the width of its operands."""

from collections import Counter
from collections.abc import Mapping

from lpcompile.accounts.entries import Work
from lpcompile.accounts.functions import Recipe
from lpcompile.accounts.sizes import width_of
from lpcompile.analysis.arithmetic import Kind, Operation
from lpcompile.analysis.cost_classes import ACTIVATION, COMPARE
from lpcompile.ir.node import Node


class Spending:
    """Operations of one node.

    Attributes:
        bits, floats: width of its operands.
        in_activation: whether the node is part of a function of one tensor that has a name, as x * Sigmoid(x).
        work: what was spent.
        ace: of products.
    """

    def __init__(self, bits: int = 32, *, floats: bool = True, in_activation: bool = False) -> None:
        self.bits, self.floats, self.in_activation = bits, floats, in_activation
        self.work: Work = Counter()
        self.ace = 0.0

    @classmethod
    def of(cls, node: Node, *, in_activation: bool = False) -> "Spending":
        """At the width of the node's widest operand; a float among integers makes all of them floats."""
        widths = [width_of(v) for v in node.inputs if v is not None] or [width_of(None)]
        floats = any(f for _, f in widths)
        bits = max(b for b, f in widths if f == floats)
        return cls(bits, floats=floats, in_activation=in_activation)

    def spend(self, name: str, recipe: Recipe, times: int) -> None:
        """A recipe so many times, under a class; comparisons go to their own."""
        for kind, count in recipe.items():
            self.add(name, Operation(kind, self.bits, self.bits, floats=self.floats), count * times)

    def role(self, name: str) -> str:
        """The class of an elementwise node, if it is part of no activation."""
        return ACTIVATION if self.in_activation else name

    def add(self, name: str, operation: Operation, times: int) -> None:
        """One operation so many times."""
        if times:
            self.work[COMPARE if operation.kind is Kind.COMPARE else name, operation] += times

    def products(self, name: str, macs: int, i: int | None = None, j: int | None = None) -> None:
        """Multiply-accumulates, at the width of the operands if not told otherwise."""
        floats = self.floats and i is None
        operation = Operation(Kind.MAC, i or self.bits, j or self.bits, floats=floats)
        self.add(name, operation, macs)
        self.ace += macs * operation.i * operation.j

    def merge(self, work: Mapping[tuple[str, Operation], int]) -> None:
        """What was counted elsewhere."""
        for (name, operation), times in work.items():
            self.add(name, operation, times)
