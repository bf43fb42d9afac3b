"""The bias of a layer as a plan has it."""

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node
from lpcompile.plan import LayerPlan


def planned_bias(node: Node, plan: LayerPlan) -> NDArray[np.float32] | None:
    """The constant bias of a layer with its correction, (C_out,); None where it has neither."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or not value.is_constant:
        return plan.bias_correction
    bias = np.asarray(value.values, np.float32)
    return bias if plan.bias_correction is None else bias + plan.bias_correction
