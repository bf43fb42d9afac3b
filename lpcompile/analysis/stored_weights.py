"""A float graph whose layers hold what their plan stores: rounded weights, corrected biases; planned norms."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_constants import with_planned_constants


def with_stored_weights(graph: LpGraph) -> LpGraph:
    """The graph itself where no layer was rounded yet, or a copy in which the weights of those that were are rounded.

    Args:
        graph: float graph and plan.
    """
    rounded = {n: p for n, p in graph.plan.layers.items() if p.tensor is not None}
    if not rounded:
        return graph
    copy = with_planned_constants(graph)
    for name, plan in rounded.items():
        node = copy.node(name)
        assert plan.tensor is not None
        weight = copy.constant(f"{name}/stored_weight", as_weight(node, plan.tensor.dequantize()))
        node.set_input(1, weight)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if plan.bias_correction is not None and (bias is not None or node.op != "MatMul"):
            values = plan.bias_correction + (0 if bias is None else bias.values)
            node.set_input(2, copy.constant(f"{name}/stored_bias", np.asarray(values, np.float32)))
    copy.plan = replace(copy.plan, layers=MappingProxyType(dict(copy.plan.layers)))
    return copy
