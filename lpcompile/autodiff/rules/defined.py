"""Operators that others define: the chain rule runs through a second copy, spelled in those (`ir.definitions`)."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.registry import Gradient, rule
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.ir.definitions import OF_ONNX, OF_RUNTIME, definition
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.value import Value


@rule(*OF_ONNX)
@rule(*OF_RUNTIME, domain=RUNTIME_DOMAIN)
def defined(
    b: GradientBuilder, node: Node, grads: Sequence[Gradient], wanted: Sequence[bool]
) -> list[Gradient]:
    """The gradients of the parts; what they start from are copies, so that nothing outside counts twice."""
    parts = definition(node, b.graph.opset)
    if parts is None:
        raise GradientError(
            f"this form of operator {node.operator} has no gradient",
            where=node.name,
            hint="sensitivity can be measured forward only (--method measured)",
        )
    copies = {v.name: b.copy(v) for v in node.inputs if v is not None}
    made = _put(b.graph, parts, copies, f"{b.prefix}/{node.op}")
    outputs = zip(node.outputs, grads, strict=False)
    seeds = {made[o.name].name: g for o, g in outputs if o is not None and g is not None}
    asked = {
        v.name: copies[v.name].name for v, w in zip(node.inputs, wanted, strict=True) if v is not None and w
    }
    found = add_gradients(b.graph, seeds, list(asked.values()), prefix=b.prefix)
    gradients: list[Gradient] = []
    for v in node.inputs:  # an input that is read twice has its gradient once
        name = asked.pop(v.name, None) if v is not None else None
        gradients.append(None if name is None else found[name])
    return gradients


def _put(graph: LpGraph, parts: LpGraph, given: dict[str, Value], prefix: str) -> dict[str, Value]:
    """Add the nodes of a graph to another, reading `given` for its inputs; name there -> tensor here."""
    made = dict(given)
    for node in parts.nodes():
        inputs = []
        for v in node.inputs:
            if v is not None and v.name not in made:
                made[v.name] = graph.constant(f"{prefix}/{v.name}", v.values)
            inputs.append(None if v is None else made[v.name])
        new = graph.add_node(
            node.op, inputs, len(node.output_names), name=f"{prefix}/{node.op}", attrs=dict(node.attrs)
        )
        for was, now in zip(node.outputs, new.outputs, strict=False):
            if was is not None and now is not None:
                graph.set_type(now, was.dtype, was.shape)
                made[was.name] = now
    return made
