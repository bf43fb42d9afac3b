"""What an x86 CPU without VNNI makes of a row of u8 x s8 products, in numpy (VPMADDUBSW, then exact sums)."""

import numpy as np
from numpy.typing import NDArray


def saturating_sums(x: NDArray[np.integer], w8: NDArray[np.integer]) -> int:
    """The sum of products with each two of them, in their order, cut off to int16.

    Args:
        x: (K,) codes 0 to 255.
        w8: (K,) weights.
    """
    products = x.astype(np.int64) * w8.astype(np.int64)
    padded = np.append(products, 0) if len(products) % 2 else products
    pairs = padded.reshape(-1, 2).sum(axis=1)
    return int(np.clip(pairs, -(2**15), 2**15 - 1).sum())
