"""GPTQ of codes beside a side path: what merging rounds away is made up for by the inputs that follow.

The merged image has 8 bits, and its rounding errors are white; those that GPTQ leaves of 4 bits are shaped by the
inputs and often smaller where it counts. So the error that is fed back is that of the merged weights. A path that stays
apart loses nothing more.
"""

import numpy as np

from lpcompile.formats.arrays import F32
from lpcompile.quant.gptq import rounded_levels
from lpcompile.quant.gram_factor import GramFactor
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import clipped
from lpcompile.quant.unit_rows import arranged, row_steps, unit_rows


def merged_codes(rows: F32, tensor: QuantizedTensor, factors: GramFactor) -> QuantizedTensor:
    """The tensor with codes of small output error of the merged weights; scales and side path stay.

    Args:
        rows: the real weights, (C, K) float32.
        tensor: with a side path; its codes do not matter.
        factors: of the layer's one Gram matrix.
    """
    main, side = tensor.main, tensor.side
    if side is None:
        return tensor
    path = side.product()
    target = np.asarray(rows - path * row_steps(main)[:, None], np.float32)
    units = unit_rows(target, main, 1, None, factors.order)
    added, steps = arranged(path, units.slots, units.order), side.row_steps()[units.slots]

    def held(k: int, levels: F32) -> F32:
        return np.asarray(clipped((levels + added[:, k]) / steps) * steps - added[:, k], np.float32)

    found = units.tensor(rounded_levels(units, factors.feedback, held=None if side.apart else held))
    return QuantizedTensor(found.codes, main.format, main.granularity, main.scales, side=side)
