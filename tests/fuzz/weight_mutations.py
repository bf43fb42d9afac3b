"""Initialisers, a little broken."""

from collections.abc import Callable
from random import Random

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

_DIMS = (0, 1, -1, 2, 3, 1000, 2**20, 2**31, 2**40, 2**62, -(2**63))
_VALUES = (float("nan"), float("inf"), -float("inf"), 0.0, 1e38, 1e-45, -1e-38)


def _one(rng: Random, model: ModelProto) -> TensorProto | None:
    """Any initialiser, as raw bytes."""
    if not model.graph.initializer:
        return None
    tensor: TensorProto = rng.choice(model.graph.initializer)
    try:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    except Exception:  # it is broken already
        return None
    return tensor


def _changed(tensor: TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def delete_weights(rng: Random, model: ModelProto) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def duplicate_weights(rng: Random, model: ModelProto) -> None:
    if model.graph.initializer:
        model.graph.initializer.add().CopyFrom(rng.choice(model.graph.initializer))


def change_type(rng: Random, model: ModelProto) -> None:
    if tensor := _one(rng, model):
        tensor.data_type = rng.randrange(30)


def convert(rng: Random, model: ModelProto) -> None:
    tensor = _one(rng, model)
    if tensor is not None and tensor.data_type == TensorProto.FLOAT:
        kind = rng.choice((np.float16, np.float64, np.int64, np.int8, np.uint8, np.bool_, np.complex64))
        _changed(tensor, numpy_helper.to_array(tensor).astype(kind))


def change_dims(rng: Random, model: ModelProto) -> None:
    if tensor := _one(rng, model):
        if tensor.dims and rng.random() < 0.6:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_DIMS)
        else:
            tensor.dims.append(rng.choice(_DIMS))


def reshape(rng: Random, model: ModelProto) -> None:
    """The same values in another shape."""
    if tensor := _one(rng, model):
        array = numpy_helper.to_array(tensor)
        shapes = [array.T.shape, (array.size,), (1, *array.shape), (*array.shape, 1), (array.size, 1, 1, 1)]
        _changed(tensor, array.reshape(rng.choice(shapes)))


def slice_weights(rng: Random, model: ModelProto) -> None:
    """Fewer values along one axis, or none."""
    if tensor := _one(rng, model):
        array = numpy_helper.to_array(tensor)
        if array.ndim:
            axis = rng.randrange(array.ndim)
            count = rng.choice((0, 1, max(array.shape[axis] - 1, 0)))
            _changed(tensor, np.take(array, range(count), axis=axis) if array.shape[axis] else array)


def cut_bytes(rng: Random, model: ModelProto) -> None:
    if tensor := _one(rng, model):
        tensor.raw_data = (
            tensor.raw_data[: -rng.choice((1, 4, 1000))] if rng.random() < 0.6 else tensor.raw_data * 2
        )


def odd_values(rng: Random, model: ModelProto) -> None:
    if tensor := _one(rng, model):
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype.kind == "f" and array.size:
            with np.errstate(all="ignore"):
                value = array.dtype.type(rng.choice(_VALUES))
                if rng.random() < 0.5:
                    array.flat[rng.randrange(array.size)] = value
                else:
                    array[...] = value
        elif array.dtype.kind == "i" and array.size:
            info = np.iinfo(array.dtype)
            array.flat[rng.randrange(array.size)] = rng.choice((0, -1, int(info.max), int(info.min), 7))
        _changed(tensor, array)


def scale_values(rng: Random, model: ModelProto) -> None:
    tensor = _one(rng, model)
    if tensor is not None and tensor.data_type == TensorProto.FLOAT:
        with np.errstate(all="ignore"):
            factor = np.float32(rng.choice((1e-30, 1e-10, 1e10, 1e30, 3e38, -1)))
            _changed(tensor, numpy_helper.to_array(tensor) * factor)


def outside(rng: Random, model: ModelProto) -> None:
    """External data, where they must not be or are not."""
    if tensor := _one(rng, model):
        location = rng.choice(
            (
                "../../etc/passwd",
                "/etc/passwd",
                "lost.bin",
                "",
                ".",
                "model.onnx",
                "C:\\x",
                "a\x00b",
                "/dev/zero",
                "~/x",
                "\x1b[2J",
            )
        )
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = [
            ("location", location),
            ("offset", rng.choice(("0", "-1", "x", "9" * 30))),
            ("length", rng.choice(("", "4", "-4", "1e3", "9" * 30))),
        ]
        for key, value in entries[: rng.choice((1, 2, 3))]:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value


def sparse(rng: Random, model: ModelProto) -> None:
    """One weight written as a sparse tensor, sound or not."""
    if not model.graph.initializer:
        return
    at = rng.randrange(len(model.graph.initializer))
    tensor = model.graph.initializer[at]
    made = model.graph.sparse_initializer.add()
    made.dims.extend(rng.choice((list(tensor.dims), [2**40], [-1], [2**33], [])))
    made.values.CopyFrom(helper.make_tensor(tensor.name, 1, [1], [1.0]))
    made.indices.CopyFrom(helper.make_tensor("", 7, [1], [rng.choice((0, -1, 2**40))]))
    del model.graph.initializer[at]


def as_input(rng: Random, model: ModelProto) -> None:
    """A weight that is a graph input as well, or instead."""
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        dims = [d if abs(d) < 2**62 else 1 for d in tensor.dims]
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, dims))
        if rng.random() < 0.5:
            model.graph.initializer.remove(tensor)


WEIGHT_MUTATIONS: tuple[Callable[[Random, ModelProto], None], ...] = (
    delete_weights,
    duplicate_weights,
    change_type,
    convert,
    change_dims,
    reshape,
    slice_weights,
    cut_bytes,
    odd_values,
    odd_values,
    scale_values,
    outside,
    sparse,
    as_input,
)
