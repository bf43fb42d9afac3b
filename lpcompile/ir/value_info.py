"""Types and shapes of tensors as ONNX writes them."""

import numpy as np
from onnx import GraphProto, TensorShapeProto, ValueInfoProto

from lpcompile.ir.dtypes import NUMPY_OF_ONNX, ONNX_OF_NUMPY
from lpcompile.ir.store import Shape, StoredVariable, is_constant


def known(info: ValueInfoProto) -> ValueInfoProto:
    """The same, or a copy without sizes below 0: exporters write them for unknown, and runtimes read them so."""
    if not any(map(_is_negative, info.type.tensor_type.shape.dim)):
        return info
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    _forget(copy)
    return copy


def forget_negative(graph: GraphProto) -> None:
    """Clear every size below 0 that a graph or a body in it declares."""
    for info in (*graph.input, *graph.value_info, *graph.output):
        _forget(info)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                forget_negative(body)


def _forget(info: ValueInfoProto) -> None:
    for dim in filter(_is_negative, info.type.tensor_type.shape.dim):
        dim.ClearField("dim_value")


def _is_negative(dim: TensorShapeProto.Dimension) -> bool:
    return dim.HasField("dim_value") and dim.dim_value < 0


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
            dims.append(None if _is_negative(dim) else dim.dim_value)
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
        add_dim(shape, size)


def add_dim(shape: TensorShapeProto, size: int | str | None) -> None:
    """Add an axis; None is one of unknown size."""
    dim = shape.dim.add()
    if isinstance(size, str):
        dim.dim_param = size
    elif size is not None:
        dim.dim_value = int(size)
