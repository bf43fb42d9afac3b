"""A float graph whose planned tensors are rounded to their codes: what a plan does to activations, in floats."""

from collections.abc import Mapping

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan


def with_rounded_activations(graph: LpGraph, plans: Mapping[str, ActivationPlan]) -> LpGraph:
    """A copy in which nodes read planned tensors as `scale * clip(rne(x / scale), low, high)`.

    Graph outputs and control-flow bodies read floats.

    Args:
        graph: the float graph.
        plans: by tensor.
    """
    copy = graph.copy()
    for name, plan in plans.items():
        tensor = copy.value(name)
        constants = {"scale": plan.scale, "low": -plan.zero_point, "high": plan.code_max - plan.zero_point}
        scale, low, high = (
            copy.constant(f"{name}/{k}", np.asarray(v, np.float32)) for k, v in constants.items()
        )
        first = copy.add_node("Div", [tensor, scale], name=copy.fresh(f"{name}/rounded"))
        last = first
        for op, operands in (("Round", ()), ("Clip", (low, high)), ("Mul", (scale,))):
            last = copy.add_node(op, [last.outputs[0], *operands], name=copy.fresh(f"{name}/rounded"))
        rounded = last.outputs[0]
        assert rounded is not None
        copy.set_type(rounded, tensor.dtype, tensor.shape)
        copy.replace_uses(tensor, rounded, only=first.__ne__)
    return copy
