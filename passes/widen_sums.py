"""Let residual sums keep their 8 bits where layers read the same tensor in fewer.

A tensor that a layer and a sum (or a product) both read has one number format, that of the layer: and with it the whole
stream of sums would have 4 bits, whose errors add up from block to block. An Identity before its layers gives them a
tensor of their own, with a range of its own, which is rounded from the wider one; what the arrays multiply still has 4
bits. Quantising what layers read and leaving sums alone is how block-wise methods are measured. [li2021, sec. 4]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from lpcompile.analysis.activation_ranges import LEVELS
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import ActivationOptions
from lpcompile.records import PassReport

COMPUTING = ("Add", "Mul", "Sub")  # of two activations
BORDER = "Identity"  # where a scale may change


@dataclass(frozen=True, slots=True)
class WidenSums(Pass):
    """Tensors of their own for layers that read a stream of sums."""

    name: ClassVar[str] = "widen-sums"
    summary: ClassVar[str] = "sums keep 8 bits where layers read the same tensor in 4"
    takes: ClassVar[tuple[str, ...]] = ("followed_by",)
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Put an Identity between each such tensor and its layers."""
        report = PassReport(self.name)
        options = ctx.activations or ActivationOptions()
        layers = {n.name for n in graph.layers()}
        read = {n.inputs[0].name: n.inputs[0] for n in graph.layers() if n.inputs[0] is not None}
        for x in read.values():
            computing = next((n for v in _alike(x) for n in v.consumers if _computes(n)), None)
            if computing is None:
                continue
            if LEVELS[options.format] >= LEVELS["uint8"]:
                report.skip(x.name, f"layers read it in as many bits as {computing.name} does")
                continue
            readers = [n.name for n in x.consumers if n.name in layers]
            _give_own_tensor(graph, x, readers)
            report.change(x.name, f"{computing.name} reads 8 bits of it", after=f"{len(readers)} layers of 4")
        return report


def _give_own_tensor(graph: LpGraph, x: Value, readers: list[str]) -> None:
    node = graph.add_node(BORDER, [x], [graph.fresh(f"{x.name}/narrow")])
    (own,) = node.outputs
    assert own is not None
    graph.set_type(own, x.dtype, x.shape)
    graph.replace_uses(x, own, only=lambda n: n.name in readers and n.inputs[0] == x)


def _computes(node: Node) -> bool:
    return not node.domain and node.op in COMPUTING and len(data_inputs(node)) == 2


def _alike(x: Value) -> Iterator[Value]:
    """A tensor and all that only moves and clamps stand between: they share a scale."""
    waiting, seen = [x], {x.name}
    while waiting:
        value = waiting.pop()
        yield value
        made = [value.producer] if value.producer is not None else []
        for node in [*made, *value.consumers]:
            if node.domain or node.op == BORDER or node.op not in (*CLAMPS, *DATA_INPUTS):
                continue
            for other in (*data_inputs(node), *node.outputs):
                if other is not None and other.name not in seen:
                    seen.add(other.name)
                    waiting.append(other)
