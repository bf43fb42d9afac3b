"""Multipliers of up to five bits in eight: codes of `ufloat8_e4m4` and one power of two, exactly or not at all."""

import numpy as np

from lpcompile.formats.arrays import F64
from lpcompile.formats.base import resolve
from lpcompile.quant.granularity import PerTensor
from lpcompile.quant.multipliers import dyadic
from lpcompile.quant.qtensor import QuantizedTensor

FORMAT = "ufloat8_e4m4"
_BITS, _EXPONENTS = 5, 16
_LEAST = -126  # float32 powers of two


def short_multipliers(values: F64) -> QuantizedTensor | None:
    """Positive multipliers as they are stored in 8 bits each; None where that would change one.

    Args:
        values: (C,).
    """
    if not values.size or (values <= 0).any():
        return None
    m, e = dyadic(values, _BITS)
    lowest = int(e.min())
    exact = np.array_equal(np.ldexp(m, e.astype(np.int32)), values)
    if not exact or int(e.max()) - lowest >= _EXPONENTS or lowest < _LEAST:
        return None
    codes = ((e - lowest) * _EXPONENTS + m.astype(np.int64) - _EXPONENTS).astype(np.uint8)
    unit = np.asarray(2.0**lowest, np.float32)
    return QuantizedTensor(codes, resolve(FORMAT), PerTensor(), unit)
