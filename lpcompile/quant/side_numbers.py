"""A side path that runs apart beside a layer that gives floats: two products of integers and three float32 scales.

    h = clip(rne(f32(sum a8 (x - zero)) * f32 m_j), -H, H)    (r,) integers
    y += f32(sum b8 h) * f32(scale of x * scale_c)

Both sums are whole numbers below 2^24, which float32 holds in any order; everything else is a single rounding of a
single element, so that numpy and a graph give the same bits. [architecture 3.6]
"""

from dataclasses import dataclass

import numpy as np

from lpcompile.formats.arrays import F32, I8
from lpcompile.quant.dyadic import Codes, accumulator_reach
from lpcompile.quant.side_integers import largest_hidden
from lpcompile.quant.side_path import SidePath

ANY_ZERO = (Codes(0, 0, 255), Codes(255, 0, 255))  # the ends of what a zero point may be


@dataclass(frozen=True, slots=True, eq=False)
class SideNumbers:
    """What a call holds of a side path.

    Attributes:
        a: (r, K) int8.
        b: (C, r) int8.
        m: (r,) float32.
        scale: (C,) float32.
        high: H, a float32 number of shape ().
    """

    a: I8
    b: I8
    m: F32
    scale: F32
    high: F32


def side_numbers(path: SidePath, x: Codes | None, scale: F32) -> SideNumbers:
    """The numbers of a path.

    Args:
        path: apart.
        x: codes of the layer's input; None: 8 bits with a zero point that is found at run time.
        scale: (C,) of the main path.
    """
    largest = largest_hidden(path.b)
    ends = [accumulator_reach(path.a, codes) for codes in ([x] if x is not None else ANY_ZERO)]
    reach = np.max([np.maximum(-least, most) for least, most in ends], axis=0)
    n = path.multipliers.astype(np.float64)
    factor = (largest - 1) / max(float((reach * n).max(initial=0)), 1.0)
    steps = np.asarray(scale.astype(np.float64) * (float(path.unit) / factor), np.float32)
    return SideNumbers(
        path.a, path.b, np.asarray(n * factor, np.float32), steps, np.asarray(largest, np.float32)
    )


def side_floats(side: SideNumbers, x: np.ndarray, x_scale: np.float32) -> F32:
    """What a path adds, (..., C), to the outputs of inputs less their zero point, (..., K) integers."""
    sums = (x.astype(np.float64) @ side.a.T.astype(np.float64)).astype(np.float32)  # whole numbers below 2^24
    hidden = np.clip(np.rint(np.multiply(sums, side.m, dtype=np.float32)), -side.high, side.high)
    second = (hidden.astype(np.float64) @ side.b.T.astype(np.float64)).astype(np.float32)
    return np.multiply(second, np.multiply(x_scale, side.scale, dtype=np.float32), dtype=np.float32)
