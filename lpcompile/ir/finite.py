"""A check for weights that are no numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import ModelError
from lpcompile.ir.dtypes import is_float
from lpcompile.ir.graph import LpGraph

_CHUNK_ELEMENTS = 1 << 20
LARGEST_WEIGHT = 1e18  # losses are sums of squares


def check_finite(graph: LpGraph) -> None:
    """Check that the weights of the layers hold neither NaN nor infinity, nor numbers whose squares are.

    Other constants may: attention masks are filled with -inf. NaN is refused in every float constant.

    Raises:
        ModelError: names the initialiser and says how many values are bad.
    """
    weights = {v for layer in graph.layers() for v in layer.inputs[1:3] if v is not None}
    for value in graph.constants():
        if not is_float(value.dtype):
            continue
        bad, largest = 0, 0.0
        for chunk in _chunks(value.values):
            if value in weights:
                largest = max(largest, float(chunk.max()), -float(chunk.min()))
            good = np.isfinite(chunk) if value in weights else ~np.isnan(chunk)
            bad += int(chunk.size - np.count_nonzero(good))
        if bad:
            kind = "NaN or infinite" if value in weights else "NaN"
            raise ModelError(
                f"initializer {value.name!r} holds {bad} {kind} values",
                hint="export the model again from a checkpoint whose weights are finite",
            )
        if largest > LARGEST_WEIGHT:
            raise ModelError(
                f"initializer {value.name!r} holds values up to {largest:.3g}, whose squares overflow float32",
                hint="export the model again from a checkpoint whose training did not diverge",
            )


def _chunks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Pieces of a bounded size, so that a mapped weight is not brought into memory whole."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK_ELEMENTS):
        chunk = flat[start : start + _CHUNK_ELEMENTS]
        yield chunk if chunk.dtype.kind == "f" else chunk.astype(np.float32)
