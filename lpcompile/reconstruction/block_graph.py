"""The graph of one block: fed with what comes into it, its activations rounded as planned, its outputs compared.

Rounding may be dropped for each number by itself, as QDrop has it: x~ = x + keep (x^ - x), keep 0 or 1. [wei2022]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from lpcompile.formats.arrays import F32
from lpcompile.ir import export
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.ir.value import Value
from lpcompile.plan import ActivationPlan
from lpcompile.reconstruction.blocks import Block
from lpcompile.reconstruction.latent_rounding import LatentLayer
from lpcompile.tuning.activation_scales import TunedScale
from lpcompile.tuning.student import Student, make_student
from lpcompile.tuning.targets import Compared

Reads = Sequence[tuple[str, frozenset[str]]]  # planned tensors, and who reads them rounded


@dataclass
class BlockGraph:
    """A block that can be trained.

    Attributes:
        student: the graph with loss and gradients.
        fed: tensor of the model -> graph input.
        keeps: rounded tensor of the model -> graph input that says where its rounding is kept.
        weights: output of the block -> graph input of what its error is multiplied by.
        targets: output of the block -> graph input of what it is compared with.
        layers, scales: what is trained.
    """

    student: Student
    fed: dict[str, str]
    keeps: dict[str, str]
    weights: dict[str, str]
    targets: dict[str, str]
    layers: Sequence[LatentLayer]
    scales: Sequence[TunedScale]

    @property
    def tensors(self) -> list[str]:
        """What must be opened for training."""
        return [self.student.loss, *self.student.gradients.values()]


@dataclass
class _Parts:
    fed: dict[str, str] = field(default_factory=dict)
    keeps: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    compared: dict[str, str] = field(default_factory=dict)


def block_graph(
    graph: LpGraph,
    block: Block,
    layers: Sequence[LatentLayer],
    activations: Mapping[str, ActivationPlan],
    reads: Reads,
    *,
    learned: Mapping[str, float] | None = None,
    free_batch: bool = True,
    drops: bool = True,
    weighted: bool = False,
    factors: Mapping[str, float] | None = None,
    held: Mapping[str, tuple[F32, F32 | None]] | None = None,
) -> BlockGraph:
    """Build the graph of a block.

    Args:
        graph: the float graph; it is not changed.
        block: of it.
        layers: of the block, to be trained.
        activations: plans by tensor.
        reads: which of them are rounded, for which nodes.
        learned: tie groups whose scales are trained -> the least scale of each.
        free_batch: the first axis of what is fed may have any length.
        drops: with inputs that say where rounding is kept.
        weighted: with inputs that the errors of the outputs are multiplied by.
        factors: of the loss, by output; 1 where not given.
        held: weights and bias of other layers of the block.

    Raises:
        GradientError: an operator has no gradient, or no weight reaches the outputs.
    """
    copy, parts, inside = with_planned_constants(graph), _Parts(), frozenset(block.nodes)
    for name, (weight, bias) in (held or {}).items():
        copy.set_weights(copy.node(name), weight, bias)
    for name in (*block.inputs, *block.side):
        _feed(copy, parts, name, inside, free_batch=free_batch)
    scales: dict[str, TunedScale] = {}
    for name, readers in reads:
        _round(copy, parts, name, activations[name], readers & inside, scales, drops=drops)
    for name in block.outputs:
        _compare(copy, parts, name, weighted=weighted)
    compared = Compared("mse", tuple(parts.compared.values()))
    small = _alone(copy, compared.tensors)
    small.infer_shapes()
    trained = [replace(s, least=least) for g, least in (learned or {}).items() if (s := scales.get(g))]
    factor = [(factors or {}).get(name, 1.0) for name in parts.compared]
    student = make_student(small, layers, trained, compared, factor)
    targets = dict(zip(parts.compared, student.targets, strict=True))
    return BlockGraph(student, parts.fed, parts.keeps, parts.weights, targets, layers, trained)


def _feed(graph: LpGraph, parts: _Parts, name: str, inside: frozenset[str], *, free_batch: bool) -> None:
    value = graph.value(name)
    if value.is_input:
        parts.fed[name] = name
        return
    shape = None if value.shape is None else list(value.shape)
    if shape and free_batch:
        shape[0] = "samples"
    fed = graph.add_input(graph.fresh(f"{name}/fed"), value.dtype or np.dtype(np.float32), shape or ())
    graph.set_type(fed, value.dtype, shape)
    graph.replace_uses(value, fed, only=lambda n: n.name in inside)
    parts.fed[name] = fed.name


def _round(
    graph: LpGraph,
    parts: _Parts,
    name: str,
    plan: ActivationPlan,
    readers: frozenset[str],
    scales: dict[str, TunedScale],
    *,
    drops: bool,
) -> None:
    if not readers:
        return
    x = graph.value(parts.fed.get(name, name))
    if plan.tie_group not in scales:
        constant = graph.constant(f"{plan.tie_group}/scale", np.float32(plan.scale))
        node = graph.add_node("Identity", [constant], name=f"{plan.tie_group}/scale")
        scales[plan.tie_group] = TunedScale(node.name, plan)
    scale = _only(graph.node(scales[plan.tie_group].node))
    one = graph.constant(f"{name}/one", np.float32(1))
    zero = graph.constant(f"{name}/zero_point", np.uint8(plan.zero_point))
    first = graph.add_node("Div", [x, scale], name=f"{name}/rounded")
    at = _typed(graph, first, x)
    if plan.code_max < 255:
        ends = [
            graph.constant(f"{name}/{k}", np.float32(v - plan.zero_point))
            for k, v in (("low", 0), ("high", plan.code_max))
        ]
        at = _typed(graph, graph.add_node("Clip", [at, *ends], name=f"{name}/rounded"), x)
    codes = graph.add_node("QuantizeLinear", [at, one, zero], name=f"{name}/rounded")
    graph.set_type(_only(codes), np.dtype(np.uint8), x.shape)
    at = _typed(
        graph, graph.add_node("DequantizeLinear", [_only(codes), one, zero], name=f"{name}/rounded"), x
    )
    at = _typed(graph, graph.add_node("Mul", [at, scale], name=f"{name}/rounded"), x)
    mixed = [first.name]
    if drops:
        asked = graph.add_input(graph.fresh(f"{name}/keep"), np.dtype(np.bool_), x.shape or ())
        graph.set_type(asked, np.dtype(np.bool_), x.shape)
        parts.keeps[name] = asked.name
        cast = graph.add_node("Cast", [asked], name=f"{name}/drop", attrs={"to": onnx.TensorProto.FLOAT})
        keep = _typed(graph, cast, x)
        gap = graph.add_node("Sub", [at, x], name=f"{name}/drop")
        kept = graph.add_node("Mul", [_typed(graph, gap, x), keep], name=f"{name}/drop")
        last = graph.add_node("Add", [_typed(graph, kept, x), x], name=f"{name}/drop")
        mixed += [gap.name, last.name]
        at = _typed(graph, last, x)
    graph.replace_uses(x, at, only=lambda n: n.name in readers and n.name not in mixed)


def _compare(graph: LpGraph, parts: _Parts, name: str, *, weighted: bool) -> None:
    y = graph.value(name)
    if weighted:
        factor = graph.add_input(graph.fresh(f"{name}/weight"), np.dtype(np.float32), y.shape or ())
        graph.set_type(factor, np.dtype(np.float32), y.shape)
        parts.weights[name] = factor.name
        y = _typed(graph, graph.add_node("Mul", [y, factor], name=f"{name}/weighted"), y)
    parts.compared[name] = y.name


def _alone(graph: LpGraph, outputs: Sequence[str]) -> LpGraph:
    """A graph of nothing but what the outputs need."""
    proto = export.model_proto(graph, outputs=list(outputs))
    read = {name for node in proto.graph.node for name in node.input}
    used = [i for i in proto.graph.input if i.name in read]
    del proto.graph.input[:]
    proto.graph.input.extend(used)
    return LpGraph.from_proto(proto)


def _only(node: Node) -> Value:
    value = node.outputs[0]
    assert value is not None
    return value


def _typed(graph: LpGraph, node: Node, like: Value) -> Value:
    value = _only(node)
    graph.set_type(value, like.dtype, like.shape)
    return value
