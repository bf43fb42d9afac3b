"""GAR, group-aware reordering: inputs of large second moment first, but within their groups, and groups as wholes.

Groups keep their members, so scales stay where they are and nothing is gathered at run time. [gafni2025, notes E8]
"""

import numpy as np

from lpcompile.formats.arrays import Real
from lpcompile.quant.unit_rows import Index


def group_aware_order(diagonal: Real, size: int) -> Index:
    """(G, K) the inputs in the order in which they are rounded; ties by the lower index.

    Args:
        diagonal: (G, K) of the Gram matrices.
        size: inputs of a group; the last group may have fewer.
    """
    d = np.asarray(diagonal, np.float64)
    at = np.arange(d.shape[1]) // size
    largest = np.maximum.reduceat(d, np.arange(0, d.shape[1], size), axis=1)
    group = np.broadcast_to(at, d.shape)
    # The last key counts most: groups by their largest moment, then by index; members by theirs, then by index.
    return np.lexsort((np.broadcast_to(np.arange(d.shape[1]), d.shape), -d, group, -largest[:, at]), axis=1)
