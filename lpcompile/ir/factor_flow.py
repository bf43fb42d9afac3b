"""One walk through a graph that says which of some factors scales which element of which tensor.

Factors are numbers 1, 2, ... until the walk is over; two that turn out to be one are noted as equal, and those that
must stay at 1 as equal to factor 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Index = NDArray[np.int64]


class Side(StrEnum):
    """Where constants of a node take factors in, x / s being what its neighbours then see."""

    WRITES = "writes"  # rows of a layer's weights and its bias, or scale and shift of a norm, divided
    READS = "reads"  # columns of a layer's weights multiplied
    SHIFTS = "shifts"  # a constant term, divided
    SCALES = "scales"  # a constant factor for each channel, divided
    UNSCALES = "unscales"  # a constant factor for each channel, multiplied


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Constants of one node that take factors in.

    Attributes:
        node: the node.
        side: which constants, and how.
        index: factor of each channel of a layer or norm, (C,); of each element of the tensor beside a constant
            operand otherwise, with 1 on axes that share one.
    """

    node: Node
    side: Side
    index: Index


@dataclass
class FactorFlow:
    """One walk. Factors that some reason holds at 1 are made equal to factor 0."""

    index: dict[str, Index] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    parts: dict[tuple[str, Side], Part] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    reason: str = ""  # the first one
    count: int = 1
    todo: list[Node] = field(default_factory=list)
    equal: list[tuple[Index, Index]] = field(default_factory=list)

    def fresh(self, shape: Sequence[int]) -> Index:
        """Factors that nothing is known of."""
        n = math.prod(shape)
        self.count += n
        return np.arange(self.count - n, self.count).reshape(shape)

    def hold(self, index: Index, reason: str) -> None:
        """Factors that must be 1."""
        self.reason = self.reason or reason
        self.equal.append((np.zeros(index.size, np.int64), index.reshape(-1)))

    def give(self, value: Value | None, index: Index) -> None:
        """Say which factors scale a tensor; two answers make factors equal."""
        if value is None:
            return
        known = self.index.get(value.name)
        if known is not None and known.shape == index.shape:
            self.equal.append((known.reshape(-1), index.reshape(-1)))
            return
        if known is not None:
            for held in (known, index):
                self.hold(held, f"{value.name!r} is read along different axes")
            return
        self.index[value.name], self.values[value.name] = index, value
        if value.is_constant:
            self.hold(index, f"{value.name!r} is a constant")
            return
        if value.producer is None:
            self.hold(index, f"{value.name!r} is a graph input")
        elif value.is_output or value.used_in_subgraph:
            self.hold(index, "its result is read from outside")
        self.todo += [n for n in (value.producer, *value.consumers) if n is not None]

    def alike(self, index: Index, axes: Sequence[int]) -> Index:
        """The same with one factor along these axes."""
        for axis in axes:
            if index.shape[axis] > 1:
                first = np.take(index, [0], axis)
                self.equal.append((np.broadcast_to(first, index.shape).reshape(-1), index.reshape(-1)))
                index = first
        return index

    def run(self, rules: "Mapping[str, Rule]") -> None:
        """Follow everything; what a node has no rule for stays as it is."""
        while self.todo:
            node = self.todo.pop()
            known = {
                v.name: v for v in (*node.inputs, *node.outputs) if v is not None and v.name in self.index
            }
            rule = rules.get(node.operator)
            if rule is None:
                reads = any(v is not None and v.name in self.index for v in node.inputs)
                reason = f"{node.op} reads its result" if reads else f"{node.op} makes its input"
            else:
                reason = rule(self, node)
            if reason:
                for name in known:
                    self.hold(self.index[name], reason)

    def part(self, node: Node, side: Side, index: Index) -> None:
        """A constant that takes factors in."""
        self.parts.setdefault((node.name, side), Part(node, side, index))

    def numbered(self) -> tuple[int, Callable[[Index], Index]]:
        """How many factors are left once equal ones are one, factor 0 among them, and the number of each."""
        label = np.arange(self.count)
        ends = (
            [np.concatenate(side) for side in zip(*self.equal, strict=True)] if self.equal else [label, label]
        )
        while True:
            before = label.copy()
            least = np.minimum(label[ends[0]], label[ends[1]])
            for end in ends:
                np.minimum.at(label, label[end], least)
            label = label[label]
            if np.array_equal(before, label):
                break
        used = [np.zeros(1, np.int64), *(label[i].reshape(-1) for i in self.index.values())]
        roots = np.unique(np.concatenate(used))
        return len(roots), lambda index: np.searchsorted(roots, label[index])


Rule = Callable[[FactorFlow, Node], str]  # what the tensors of a node say of each other; why they say nothing
