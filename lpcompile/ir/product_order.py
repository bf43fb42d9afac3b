"""In which order integer kernels of ONNX Runtime multiply the weights of a row.

A convolution goes through all input channels of a tap before the next tap; a depthwise one adds each product to int32
by itself. Found by weights of which two at a time are large, on a CPU that adds neighbours in int16 (record 61).
"""

import numpy as np
from numpy.typing import NDArray

from lpcompile.ir.node import Node


def product_order(node: Node) -> NDArray[np.intp] | None:
    """Columns of a layer's rows (C_out, K) as its kernel goes through them; None where products are not added in pairs.

    Args:
        node: a layer with constant weights.
    """
    weight = node.inputs[1]
    assert weight is not None
    dims = weight.dims
    if node.op != "Conv":
        return np.arange(dims[-2] if len(dims) > 1 else dims[0])
    channels, taps = dims[1], int(np.prod(dims[2:]))
    group = int(node.attrs.get("group", 1))
    if channels == 1 and group == dims[0]:
        return None
    return np.arange(channels * taps).reshape(channels, taps).T.ravel()
