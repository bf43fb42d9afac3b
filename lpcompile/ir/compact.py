"""Write a model in fewer bytes and change no number: for models that would grow otherwise.

A constant that another one gives by Identity, Reshape or Transpose, and float32 values that float16 holds exactly, are
computed from what is left, by nodes that ONNX Runtime folds when it loads the model. The tensors keep their names.
Shapes of inner tensors, which only readers of the file want, go last.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LEAST_ELEMENTS = 64


def compact(proto: ModelProto, fits: Callable[[ModelProto], bool]) -> list[str]:
    """Make a model smaller in place, step by step until it fits; what was done."""
    done = []
    for step in (share_constants, halve_floats, drop_shapes):
        if fits(proto):
            break
        if count := step(proto):
            done.append(f"{step.__name__.replace('_', ' ')}: {count} tensors")
    return done


def share_constants(proto: ModelProto) -> int:
    """Compute constants that repeat another one, as it is, reshaped or transposed; how many."""
    seen: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    flat: dict[tuple[int, bytes], str] = {}

    def replaced(tensor: TensorProto) -> list[NodeProto] | None:
        array = numpy_helper.to_array(tensor)
        kind, shape, digest = tensor.data_type, array.shape, _digest(array)
        source = seen.get((kind, shape, digest))
        if source is not None:
            return [helper.make_node("Identity", [source], [tensor.name])]
        if array.ndim == 2 and (source := seen.get((kind, shape[::-1], _digest(array.T)))) is not None:
            return [helper.make_node("Transpose", [source], [tensor.name], perm=[1, 0])]
        source = flat.get((kind, digest))
        if source is not None:
            target = numpy_helper.from_array(np.array(shape, np.int64))
            name = f"{tensor.name}/shape"
            return [
                helper.make_node("Constant", [], [name], value=target),
                helper.make_node("Reshape", [source, name], [tensor.name]),
            ]
        seen[(kind, shape, digest)] = flat[(kind, digest)] = tensor.name
        return None

    return _compute(proto, replaced)


def halve_floats(proto: ModelProto) -> int:
    """Store float32 constants as float16 where that holds every value exactly; how many."""

    def replaced(tensor: TensorProto) -> list[NodeProto] | None:
        if tensor.data_type != TensorProto.FLOAT:
            return None
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), array):
            return None
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}/half"))
        return [helper.make_node("Cast", [tensor.name], [tensor.name.removesuffix("/half")], to=1)]

    return _compute(proto, replaced)


def drop_shapes(proto: ModelProto) -> int:
    """Leave out the types and shapes of inner tensors; how many."""
    count = len(proto.graph.value_info)
    del proto.graph.value_info[:]
    return count


def _compute(proto: ModelProto, replaced: Callable[[TensorProto], list[NodeProto] | None]) -> int:
    """Put nodes before all others for the initialisers that can be computed; how many."""
    graph = proto.graph
    shown = {o.name for o in graph.output} | {i.name for i in graph.input}
    nodes: list[NodeProto] = []
    kept: list[TensorProto] = []
    count = 0
    for tensor in graph.initializer:
        made = None
        if tensor.name not in shown and _elements(tensor) >= LEAST_ELEMENTS:
            name = tensor.name
            made = replaced(tensor)
            if made is not None:
                count += 1
                nodes += made
            if made is None or tensor.name != name:  # stored in another way
                kept.append(tensor)
        else:
            kept.append(tensor)
    if count:
        nodes += graph.node
        stored, rest = [_copy(t) for t in kept], [_copy_node(n) for n in nodes]
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(stored)
        graph.node.extend(rest)
    return count


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64)) if tensor.data_type != TensorProto.STRING else 0


def _copy(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _copy_node(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _digest(array: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
