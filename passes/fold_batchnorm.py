"""Fold batch norms, also those spelled as Mul and Add of constants, into the layer before or after them.

gamma * (W x + b - mean) / sqrt(var + eps) + beta = (g W) x + (b - mean) g + beta
with g = gamma / sqrt(var + eps), shape (C_out,).  [jacob2018, sec. 3.2]

After a Conv, ConvTranspose, Gemm or MatMul (with or without an Add of a bias) it always fits. Before a Conv
it fits where padding does not see the shift, before a Gemm always.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import ARITHMETIC, ChannelAffine, of_arithmetic, of_batchnorm
from lpcompile.passes.constant_inputs import elements, output_at, rank_of
from lpcompile.passes.layer_constants import (
    absorb_after,
    absorb_after_matmul,
    absorb_before,
    input_channels,
    layer_and_row,
    output_channels,
    weight_obstacle,
)
from lpcompile.passes.node_replacement import remove_dead
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

NO_LAYER = "needs a Conv, ConvTranspose, Gemm or MatMul before it, or a Conv or Gemm after it"
SHARED_INPUT = "its input is used elsewhere too"
SHARED_RESULT = "its result is used elsewhere too"


@dataclass(frozen=True, slots=True)
class FoldBatchnorm(Pass):
    """Fold per-channel scales and shifts into layers."""

    name: ClassVar[str] = "fold-batchnorm"
    summary: ClassVar[str] = "batch norms and per-channel Mul and Add folded into the layer beside them"
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.BATCHNORM_FOLDED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Fold what can be folded exactly; every other batch norm is named with its reason."""
        report = PassReport(self.name)
        if Fact.SHAPES not in graph.facts:
            graph.infer_shapes()
        while True:
            sweep = PassReport(self.name)
            for node in graph.nodes("BatchNormalization", *ARITHMETIC):
                reason = _fold(graph, node, sweep)
                if reason is not None:
                    sweep.skip(node, reason)
            report.changes += sweep.changes
            if not sweep.changes:
                report.skips = sweep.skips
                remove_dead(graph)
                return report


def _fold(graph: LpGraph, node: Node, report: PassReport) -> str | None:
    """Fold one node into the layer before it or else after it. Why not, or None (also where it is none)."""
    source = _scaled_input(node)
    if source is None:
        return None
    before = _fold_into_producer(graph, node, source, report)
    if before is True:
        return None
    after = _fold_into_consumer(graph, node, source, report)
    if after is True:
        return None
    if node.op == "BatchNormalization":
        return before or after or NO_LAYER
    return (before or after) if _is_per_channel(node) else None


def _is_per_channel(node: Node) -> bool:
    """Whether a Mul, Div, Add or Sub has a constant of many numbers, as a norm in disguise has."""
    return any(v is not None and v.is_constant and elements(v) != 1 for v in node.inputs)


def _scaled_input(node: Node) -> Value | None:
    """The input that is scaled and shifted; None where the node does something else."""
    if node.op == "BatchNormalization":
        return node.inputs[0]
    variable = [v for v in node.inputs if v is not None and not v.is_constant]
    return variable[0] if len(node.inputs) == 2 and len(variable) == 1 else None


Outcome = Literal[True] | str | None  # folded; why not; there is no such layer


def _fold_into_producer(graph: LpGraph, node: Node, source: Value, report: PassReport) -> Outcome:
    layer, row = layer_and_row(source)
    if layer is None or (layer.op == "MatMul" and row is None and node.op in ("Add", "Sub")):
        return None  # a sum after a MatMul is its bias already
    if (obstacle := weight_obstacle(layer)) is not None:
        return obstacle
    affine = _affine(graph, node, source, output_channels(layer), layer)
    if not isinstance(affine, ChannelAffine):
        return affine
    if not all(graph.sole_producer(link) for link in (source, output_at(layer))):
        return SHARED_INPUT
    after = _sharing(layer)
    if layer.op == "MatMul":
        stand_in = absorb_after_matmul(graph, layer, row, affine)
    else:
        stand_in = absorb_after(graph, layer, affine) or source
    if isinstance(stand_in, str):
        return stand_in
    graph.replace_uses(output_at(node), stand_in)
    graph.remove(node)
    report.change(node, f"folded into {layer.name}", after=after)
    return True


def _fold_into_consumer(graph: LpGraph, node: Node, source: Value, report: PassReport) -> Outcome:
    result = output_at(node)
    readers = [n for n in result.consumers if n.op in ("Conv", "Gemm") and not n.domain]
    layer = next((n for n in readers if n.inputs[0] == result), None)
    if layer is None or rank_of(source) not in (None, rank_of(layer.inputs[1])):
        return None
    if (obstacle := weight_obstacle(layer)) is not None:
        return obstacle
    affine = _affine(graph, node, source, input_channels(layer), layer)
    if not isinstance(affine, ChannelAffine):
        return affine
    if graph.sole_producer(result) is None:
        return SHARED_RESULT
    after = _sharing(layer)
    if (reason := absorb_before(graph, layer, affine)) is not None:
        return reason
    layer.set_input(0, source)
    graph.remove(node)
    report.change(node, f"folded into {layer.name} after it", after=after)
    return True


def _affine(
    graph: LpGraph, node: Node, source: Value, channels: int, layer: Node
) -> ChannelAffine | str | None:
    """What `node` does to each of the channels that `layer` gives or takes."""
    if layer.op == "MatMul":
        rank = rank_of(output_at(layer))
        axis = (rank or 1) - 1
    else:
        rank, axis = rank_of(layer.inputs[1]), 1
    if node.op != "BatchNormalization":
        return of_arithmetic(node, source, channels, rank or 1, axis)
    if rank is None or axis != 1:
        return "its channels are not the columns of the matrix product"
    return of_batchnorm(graph, node, channels)


def _sharing(layer: Node) -> str:
    weight = layer.inputs[1]
    shared = weight is not None and len(weight.consumers) > 1
    return "own copy of a weight that others share" if shared else ""
