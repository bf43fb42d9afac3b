"""Types and shapes of tensors as ONNX writes them."""

import numpy as np
from onnx import TensorShapeProto, ValueInfoProto

from lpcompile.ir.dtypes import NUMPY_OF_ONNX, ONNX_OF_NUMPY
from lpcompile.ir.store import Shape, StoredVariable, is_constant


def read(info: ValueInfoProto) -> tuple[np.dtype | None, Shape | None]:
    """Element type and shape; None for what it does not say, and for sequences and the like."""
    if not info.type.HasField("tensor_type"):
        return None, None
    tensor = info.type.tensor_type
    shape = _dims(tensor.shape) if tensor.HasField("shape") else None
    return NUMPY_OF_ONNX.get(tensor.elem_type), shape


def _dims(shape: TensorShapeProto) -> Shape:
    dims: list[int | str | None] = []
    for dim in shape.dim:
        if dim.HasField("dim_value"):
            # Some exporters write -1 for unknown.
            dims.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            dims.append(dim.dim_param or None)
    return tuple(dims)


def write(target: ValueInfoProto, tensor: StoredVariable) -> None:
    """Fill an empty value info with what is known of a stored tensor."""
    info = None if is_constant(tensor) else tensor.info
    if info is not None:
        target.CopyFrom(info)
        target.name = tensor.name
        return
    target.name = tensor.name
    if tensor.dtype is None:
        return
    target.type.tensor_type.elem_type = ONNX_OF_NUMPY[np.dtype(tensor.dtype)]
    if tensor.shape is None:
        return
    shape = target.type.tensor_type.shape
    shape.SetInParent()
    for size in tensor.shape:
        dim = shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = int(size)
