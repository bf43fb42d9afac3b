"""The graph that is trained: a float graph that reads its parameters as inputs, its loss, and the gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.losses import add_loss
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.tuning.layer_arrays import TrainedLayer
from lpcompile.tuning.parameters import Trained, TunedConstants
from lpcompile.tuning.targets import Compared


@dataclass
class Student:
    """A graph and how its tensors are called.

    Attributes:
        judged: the graph that gives the loss.
        trained: the same with gradients; norms may use the statistics of the batch in it.
        loss: tensor of the loss, a sum over samples.
        targets: graph inputs of what is compared with, in the order of the compared tensors.
        inputs: (name of what is trained, role) -> graph input it is fed by.
        gradients: the same -> tensor of its gradient.
        statistics: norm -> tensors of mean and variance of the batch.
        compared: tensors that the loss reads, in the order of the targets.
    """

    judged: LpGraph
    trained: LpGraph
    loss: str
    targets: list[str]
    inputs: dict[tuple[str, str], str]
    gradients: dict[tuple[str, str], str] = field(default_factory=dict)
    statistics: dict[str, tuple[str, str]] = field(default_factory=dict)
    compared: tuple[str, ...] = ()


def make_student(
    graph: LpGraph,
    layers: Sequence[TrainedLayer],
    norms: Sequence[TunedConstants],
    compared: Compared,
    scales: Sequence[float],
) -> Student:
    """Build the graph.

    Args:
        graph: with float weights, activations rounded as planned; it becomes the judged graph.
        layers: of it, by name of their nodes.
        norms: of it, by name of their nodes; or others whose constants are trained.
        compared: what the loss compares, in this graph.
        scales: factor of each of them, for "mse".

    Raises:
        GradientError: an operator between a parameter and the loss has no gradient, or none of them reaches it.
    """
    nodes = {n.name: n for n in graph.nodes()}
    inputs: dict[tuple[str, str], str] = {}
    for layer in layers:
        node = nodes[layer.name]
        inputs[layer.name, "weight"] = _feed(graph, node, 1, f"{layer.name}/weight", layer.shape)
        if layer.bias is not None:
            inputs[layer.name, "bias"] = _feed(graph, node, 2, f"{layer.name}/bias", layer.bias.shape)
    for norm in norms:
        node = nodes[norm.name]
        for role, i in norm.roles.items():
            constant = node.inputs[i]
            assert constant is not None
            inputs[norm.name, role] = _feed(graph, node, i, f"{norm.name}/{role}", constant.dims)
    factors = dict(zip(compared.tensors, scales, strict=True))
    loss = add_loss(graph, compared.kind, compared.tensors, scales=factors)
    assert loss.value is not None
    student = Student(
        graph,
        graph.copy(),
        loss.value.name,
        [i.name for i in loss.inputs],
        inputs,
        compared=tuple(i.of for i in loss.inputs),
    )
    running = [norm for norm in norms if norm.running]
    trained = student.trained
    for norm in running:
        student.statistics[norm.name] = _with_batch_statistics(trained, trained.node(norm.name))
    trained.infer_shapes()
    wanted = {k: name for k, name in inputs.items() if k[1] not in ("mean", "variance")}
    own = {name: trained.value(seed.name) for name, seed in loss.seeds.items()}
    try:
        found = add_gradients(trained, own, list(wanted.values()))
    except GradientError as error:
        raise GradientError(
            error.message,
            where=error.where,
            hint="leave the pass out that retrains, or keep layers before it as they are",
        ) from error
    student.gradients = {k: g.name for k, name in wanted.items() if (g := found[name]) is not None}
    if not student.gradients:
        raise GradientError(
            "no weight reaches an output that is compared", hint="leave the pass out that retrains"
        )
    return student


def _feed(graph: LpGraph, node: Node, i: int, stem: str, shape: Sequence[int]) -> str:
    """Let a node read a new graph input."""
    value = graph.add_input(graph.fresh(stem), np.dtype(np.float32), shape)
    node.set_input(i, value)
    return value.name


def _with_batch_statistics(graph: LpGraph, node: Node) -> tuple[str, str]:
    """Write a BatchNormalization as elementary operators on the statistics of its batch; their tensors."""
    x, scale, bias = node.inputs[:3]
    y = node.outputs[0]
    assert x is not None
    assert scale is not None
    assert bias is not None
    assert y is not None
    if x.shape is None:
        raise GradientError(
            "the rank of its input is not known", where=node.name, hint="use batchnorm=frozen"
        )
    b, rank = GradientBuilder(graph, f"{node.name}/batch"), len(x.shape)
    axes = [0, *range(2, rank)]
    channel = [1, -1, *[1] * (rank - 2)]
    mean = b.mean(x, axes)
    middle = b.sub(x, mean)
    variance = b.mean(b.mul(middle, middle), axes)
    epsilon = b.constant(np.float32(node.attrs.get("epsilon", 1e-5)))
    spread = b.op("Sqrt", b.add(variance, epsilon))
    scaled = b.mul(b.div(middle, spread), b.reshape(scale, channel))
    last = graph.add_node("Add", [scaled, b.reshape(bias, channel)], name=f"{node.name}/batch/Add")
    graph.replace(node, [last])
    return mean.name, variance.name


def parameter_feeds(
    student: Student, trained: Sequence[Trained], values: Mapping[str, F32]
) -> dict[str, F32]:
    """What the graph reads of the trained arrays."""
    return {
        student.inputs[t.name, role]: array
        for t in trained
        for role, array in t.feeds(values).items()
        if (t.name, role) in student.inputs
    }
