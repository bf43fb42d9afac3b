"""Names of the array types that number formats and quantised tensors pass around."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
Real = NDArray[np.floating[Any]]


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, no longer writable: tables are shared between callers."""
    array.setflags(write=False)
    return array
