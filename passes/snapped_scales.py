"""Scales of weights for which requantisation multipliers lie on a coarse grid, and the codes that go with them."""

from dataclasses import replace

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.plan import LayerPlan, QuantPlan
from lpcompile.quant.granularity import PerAxis
from lpcompile.quant.multipliers import grid_around
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import row_steps

SMALLEST = 2.0**-100  # multipliers below it stand for rows of zeros


def multipliers_of(node: Node, plan: LayerPlan, whole: QuantPlan, output: Value) -> F64:
    """(C_out,) `s_w * s_x / s_y` of a layer, positive."""
    x = node.inputs[0]
    assert x is not None
    assert plan.tensor is not None
    ratio = whole.activations[x.name].scale / whole.activations[output.name].scale
    return np.asarray(row_steps(plan.tensor).astype(np.float64) * ratio)


def snapped(
    rows: F32,
    tensor: QuantizedTensor,
    multipliers: F64,
    bits: int,
    importance: F32 | None = None,
    min_scale: F32 | None = None,
) -> tuple[QuantizedTensor, F64]:
    """Nearest codes under scales for which each multiplier has so many bits.

    Of the two on either side of a multiplier the one is taken under which the row loses least; the upper one where
    they are equal, and where the lower one would be below the least scale.

    Args:
        rows: (C, K) the real weights.
        tensor: format, granularity and scales now; a scale per tensor becomes one a channel.
        multipliers: (C,) under these scales.
        bits: 1 for powers of two.
        importance: (K,) weights of squared errors.
        min_scale: (C,) least scale of one unit of the levels.

    Returns:
        The tensor, and by what its scales were multiplied, (C,).
    """
    steps = row_steps(tensor).astype(np.float64)
    safe = np.maximum(multipliers, SMALLEST)
    low, high = (grid / safe for grid in grid_around(safe, bits))
    lower, upper = (nearest_codes(rows, with_own_scales(tensor, r)) for r in (low, high))
    weight = np.ones(rows.shape[1], np.float32) if importance is None else importance
    losses = [np.square(t.dequantize() - rows, dtype=np.float64) @ weight for t in (lower, upper)]
    down = losses[0] < losses[1]
    if min_scale is not None:
        down &= low * steps >= min_scale
    ratio = np.where(down, low, high)
    return nearest_codes(rows, with_own_scales(tensor, ratio)), ratio


def with_own_scales(tensor: QuantizedTensor, ratio: F64) -> QuantizedTensor:
    """The tensor with float32 channel scales, those that it has times a ratio for each row."""
    rows = len(tensor.codes)
    scales = np.broadcast_to(channel_scales(tensor).reshape(-1), (rows,)).astype(np.float64) * ratio
    found = scales.astype(np.float32)
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        return replace(tensor, scales=replace(tensor.scales, scales=found))
    return replace(tensor, scales=found, granularity=PerAxis(0))
