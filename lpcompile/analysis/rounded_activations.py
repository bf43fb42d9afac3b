"""A float graph whose planned tensors are rounded to their codes: what a plan does to activations, in floats."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from lpcompile.analysis.dynamic_rounding import dynamic_inputs, only, round_dynamic_inputs
from lpcompile.analysis.integer_reads import with_separate_reads
from lpcompile.analysis.planned_groups import PlannedGroup
from lpcompile.ir import float8
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.plan import FLOAT8_FORMAT, ActivationPlan

LEFT_ALONE = 0.0  # scale of an input of `with_inputs_fed` that is not rounded


def with_rounded_activations(
    graph: LpGraph, plans: Mapping[str, ActivationPlan], *, dynamic: bool = True
) -> LpGraph:
    """A copy in which nodes read planned tensors as `scale * clip(rne(x / scale), low, high)`, or as FP8 numbers.

    Layers whose ranges are measured at run time read what these make of their inputs (`dynamic_rounding`).
    Graph outputs and control-flow bodies read floats, and so do float nodes that read what a float node makes.

    Args:
        graph: the float graph; its plan tells who reads codes.
        plans: by tensor.
        dynamic: round those too; else they read floats.
    """
    copy, reads = with_separate_reads(graph)
    for name, plan in plans.items():
        if plan.format == FLOAT8_FORMAT:
            _round_float8(copy, reads.get(name, name), plan)
            continue
        _round(
            copy, reads.get(name, name), [copy.constant(f"{name}/range", number) for number in _numbers(plan)]
        )
    if dynamic:
        round_dynamic_inputs(copy)
    return copy


def with_ranges_fed(graph: LpGraph, groups: Sequence[Sequence[str]]) -> tuple[LpGraph, str]:
    """The same, rounded over ranges that come with every run, so that one session serves all of them.

    Args:
        graph: the float graph.
        groups: tensors that share a range.

    Returns:
        The copy, and the name of its new float32 input (G, 3), which takes `ranges_of` G plans.
    """
    copy, reads = with_separate_reads(graph)
    fed = copy.add_input(copy.fresh("ranges"), np.dtype(np.float32), (len(groups), 3))
    for i, tensors in enumerate(groups):
        numbers = _fed_numbers(copy, fed, i)
        for name in tensors:
            _round(copy, reads.get(name, name), numbers)
    return copy, fed.name


def with_rounding_chosen(graph: LpGraph, groups: Sequence[PlannedGroup]) -> tuple[LpGraph, str]:
    """A copy that rounds the tensors that a run chooses.

    Args:
        graph: the float graph; its plan tells who reads codes, and which ranges are measured at run time.
        groups: of its plan.

    Returns:
        The copy, and the name of its new bool input (G + D,): of the groups, and of the `dynamic_inputs` behind them.
    """
    copy, reads = with_separate_reads(graph)
    count = len(groups) + len(dynamic_inputs(graph))
    fed = copy.add_input(copy.fresh("rounded"), np.dtype(np.bool_), (count,))

    def chosen(i: int) -> Value:
        index = copy.constant(f"{fed.name}/index", np.asarray(i, np.int64))
        return only(copy.add_node("Gather", [fed, index], name=copy.fresh(f"{fed.name}/at")).outputs)

    for i, group in enumerate(groups):
        numbers = [copy.constant(f"{group.name}/range", number) for number in _numbers(group.plan)]
        for name in group.sources:
            round_if(copy, copy.value(reads.get(name, name)), chosen(i), numbers)
    round_dynamic_inputs(copy, lambda i: chosen(len(groups) + i))
    return copy, fed.name


def with_inputs_fed(graph: LpGraph, readers: Sequence[Sequence[str]]) -> tuple[LpGraph, str]:
    """The same for some readers of tensors alone: their other readers go on reading floats.

    What a run gives the scale LEFT_ALONE stays as it is, and takes no time. [as `with_fake_quantisers`]

    Args:
        graph: the float graph.
        readers: names of layers that read one tensor, for each tensor.

    Returns:
        As `with_ranges_fed`.
    """
    copy = graph.copy()
    fed = copy.add_input(copy.fresh("ranges"), np.dtype(np.float32), (len(readers), 3))
    for i, names in enumerate(readers):
        tensor = copy.node(names[0]).inputs[0]
        assert tensor is not None
        own = only(copy.add_node("Identity", [tensor], name=copy.fresh(f"{tensor.name}/read")).outputs)
        copy.set_type(own, tensor.dtype, tensor.shape)
        for name in names:
            copy.node(name).set_input(0, own)
        scale, low, high = _fed_numbers(copy, fed, i)
        zero = copy.constant("ranges/zero", np.float32(LEFT_ALONE))
        is_rounded = copy.add_node("Greater", [scale, zero], name=copy.fresh("ranges/is_rounded"))
        round_if(copy, own, only(is_rounded.outputs), [scale, low, high])
    return copy, fed.name


def _fed_numbers(graph: LpGraph, fed: Value, row: int) -> list[Value]:
    """Scale, lowest and highest multiple of one range that comes with the run."""
    numbers = []
    for j in range(3):
        at = graph.constant("ranges/index", np.asarray([row, j], np.int64))
        numbers.append(only(graph.add_node("GatherND", [fed, at], name=graph.fresh("ranges/number")).outputs))
    return numbers


def ranges_of(plans: Sequence[ActivationPlan]) -> NDArray[np.float32]:
    """Scale, lowest and highest multiple of it, of each plan, (G, 3)."""
    return np.asarray([_numbers(plan) for plan in plans], np.float32).reshape(-1, 3)


def _numbers(plan: ActivationPlan) -> NDArray[np.float32]:
    return np.asarray([plan.scale, -plan.zero_point, plan.code_max - plan.zero_point], np.float32)


def _round(graph: LpGraph, name: str, numbers: Sequence[Value]) -> None:
    """Make the nodes that read a tensor read what a quantiser makes of it."""
    tensor, (scale, low, high) = graph.value(name), numbers
    first = graph.add_node("Div", [tensor, scale], name=graph.fresh(f"{name}/rounded"))
    last = first
    for op, operands in (("Round", ()), ("Clip", (low, high)), ("Mul", (scale,))):
        last = graph.add_node(op, [last.outputs[0], *operands], name=graph.fresh(f"{name}/rounded"))
    rounded = only(last.outputs)
    graph.set_type(rounded, tensor.dtype, tensor.shape)
    graph.replace_uses(tensor, rounded, only=first.__ne__)


def round_if(graph: LpGraph, tensor: Value, condition: Value, numbers: Sequence[Value]) -> None:
    """The same where a bool tensor of a run is true; else they read floats, and rounding takes no time.

    Graph outputs and control-flow bodies go on reading floats.

    Args:
        graph: changed.
        tensor: that is read.
        condition: bool, of one element.
        numbers: scale, lowest and highest multiple of it.
    """
    scale, low, high = (n.name for n in numbers)
    name = f"{tensor.name}/rounded"
    steps = {"Div": [scale], "Round": [], "Clip": [low, high], "Mul": [scale]}
    last, nodes = tensor.name, list[onnx.NodeProto]()
    for i, (op, operands) in enumerate(steps.items()):
        nodes.append(onnx.helper.make_node(op, [last, *operands], [f"{name}/{i}"]))
        last = f"{name}/{i}"
    copied = onnx.helper.make_node("Identity", [tensor.name], [f"{name}/copy"])
    branch = graph.add_node(
        "If",
        [condition],
        name=graph.fresh(name),
        attrs={"then_branch": _body(nodes), "else_branch": _body([copied])},
    )
    rounded = only(branch.outputs)
    graph.set_type(rounded, tensor.dtype, tensor.shape)
    graph.replace_uses(tensor, rounded, only=branch.__ne__)


def _body(nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    result = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph(nodes, "rounding", [], [result])


def _round_float8(graph: LpGraph, name: str, plan: ActivationPlan) -> None:
    add_function(graph, float8.round_float8(graph.opset))
    tensor = graph.value(name)
    unit = graph.constant(f"{name}/scale", np.asarray(plan.scale, np.float32))
    node = graph.add_node(float8.ROUND, [tensor, unit], name=graph.fresh(f"{name}/rounded"), domain=DOMAIN)
    rounded = only(node.outputs)
    graph.set_type(rounded, tensor.dtype, tensor.shape)
    graph.replace_uses(tensor, rounded, only=node.__ne__)
