"""Which output positions of a layer are computed again."""

import numpy as np
from numpy.typing import NDArray


def chosen(count: int, limit: int | None, rng: np.random.Generator | None) -> NDArray[np.intp]:
    """All of `count` positions, or a sorted draw of `limit` of them."""
    if limit is None or rng is None or count <= limit:
        return np.arange(count)
    return np.sort(rng.choice(count, limit, replace=False))
