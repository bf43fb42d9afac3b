"""Reverse accumulation: from the gradients of some tensors to those of others, as nodes of the same graph."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import ROUNDINGS, rule_of, stops
from lpcompile.errors import GradientError
from lpcompile.ir.bodies import captured_names
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Visit = Callable[[GradientBuilder, Value], Value]
_OPSET = 13  # of what the rules emit


def add_gradients(
    graph: LpGraph,
    seeds: Mapping[str, Value],
    wanted: Sequence[str],
    *,
    prefix: str = "gradient",
    visit: Mapping[str, Visit] | None = None,
) -> dict[str, Value | None]:
    """Add the nodes that compute gradients, by the chain rule over `autodiff.registry`.

    Args:
        graph: with shapes inferred; it is added to, nothing in it changes.
        seeds: tensor name -> gradient of the loss with respect to that tensor, of its shape.
        wanted: names of tensors, inputs, inner ones or constants, whose gradients are asked for.
        prefix: of the names of what is added.
        visit: wanted tensor -> what to do with its gradient as soon as it is there; the way back goes on with
            what is returned: the gradient, or `ordering.after` what was made of it, which keeps memory low.

    Returns:
        Name -> the tensor that holds its gradient; None where nothing flows back to it: its gradient is zero.

    Raises:
        GradientError: an operator on the way has no rule, named with its node; a tensor is not there or no float.
    """
    if graph.opset < _OPSET:
        raise GradientError(
            f"gradients need opset {_OPSET}, the model has {graph.opset}",
            hint="raise the opset of the model first",
        )
    builder = GradientBuilder(graph, prefix)
    for name in (*seeds, *wanted):
        if name not in graph:
            raise GradientError(f"there is no tensor '{name}'", where=name, hint="name a tensor of the model")
    order = graph.nodes()
    needed = _reached(order, set(wanted))
    gradients: dict[str, list[Value]] = {name: [seed] for name, seed in seeds.items()}
    summed: dict[str, Value | None] = {}

    def gradient(value: Value | None) -> Value | None:
        if value is None:
            return None
        if value.name not in summed:
            total = _sum(builder, gradients.get(value.name, []))
            if total is not None and visit is not None and value.name in visit:
                total = visit[value.name](builder, total)
            summed[value.name] = total
        return summed[value.name]

    for node in reversed(order):
        if not any(o is not None and o.name in gradients for o in node.outputs):
            continue
        if not _read(node) & needed:
            continue
        if stops(node):
            continue
        for value, found in zip(node.inputs, _backward(builder, node, needed, gradient), strict=False):
            if value is not None and found is not None and value.name in needed:
                gradients.setdefault(value.name, []).append(found)
    return {name: gradient(graph.value(name)) for name in wanted}


def _reached(order: Sequence[Node], wanted: set[str]) -> set[str]:
    """Tensors that depend on a wanted one, the wanted ones among them."""
    found = set(wanted)
    for node in order:
        if _read(node) & found:
            found |= {o.name for o in node.outputs if o is not None and _carries(node, o)}
    return found


def _read(node: Node) -> set[str]:
    """Tensors that a node reads, from within its control-flow bodies too."""
    captured = {name for body in node.subgraphs for name in captured_names(body.proto)}
    return captured | {i.name for i in node.inputs if i is not None}


def _carries(node: Node, value: Value) -> bool:
    return value.dtype is None or is_float(value.dtype) or (node.op in ROUNDINGS and not node.domain)


def _backward(
    builder: GradientBuilder, node: Node, needed: set[str], gradient: object
) -> Sequence[Value | None]:
    assert callable(gradient)
    rule = rule_of(node)
    if rule is None:
        raise GradientError(
            f"operator {node.operator} has no gradient",
            where=node.name,
            hint="sensitivity can be measured forward only (--method measured)",
        )
    mask = [i is not None and i.name in needed for i in node.inputs]
    return rule(builder, node, [gradient(o) for o in node.outputs], mask)


def _sum(builder: GradientBuilder, parts: Sequence[Value]) -> Value | None:
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = builder.add(total, part)
        builder.graph.set_type(total, part.dtype or np.dtype(np.float32), part.shape)
    return total
