"""Refuse axes of negative size before a Slice meets them: there ONNX's shape inference ends the process.

A window that does not fit its input gives such an axis. (onnx 1.19 to 1.23: an assertion of the C++ library inside the
inference of Slice, which no handler catches; other operators pass the size on.) Sizes below 0 that a file declares mean
unknown, as they do to ONNX Runtime: exporters write -1.
"""

from collections.abc import Iterator, Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from lpcompile.errors import ModelError
from lpcompile.ir.value_info import forget_negative

WINDOWS = frozenset(
    {"AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LpPool", "MaxPool", "Pad", "QLinearConv"}
)
HIDDEN = "lpcompile.hidden"  # a domain that nobody infers shapes of


def check_file(path: str) -> None:
    """The same of a file, without its external data; what is no model is left to whoever loads it.

    Raises:
        ModelError: an axis would have a negative size.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's errors share no base class with those of files
        return
    check_slices(model)


def check_slices(light: ModelProto) -> None:
    """Infer shapes up to the Slices first, then behind those whose inputs are sound, and so on.

    Args:
        light: the model; it is not changed. Without a Slice behind something that can shrink an axis nothing is done.

    Raises:
        ModelError: an axis would have a negative size.
    """
    nodes = list(walk(light.graph))
    if all(n.op_type != "Slice" or n.domain for n in nodes):
        return
    if all(n.op_type not in WINDOWS for n in nodes):
        return
    model = ModelProto()
    model.CopyFrom(light)
    forget_negative(model.graph)
    model.opset_import.add(domain=HIDDEN, version=1)
    hidden = [n for n in walk(model.graph) if n.op_type == "Slice" and not n.domain]
    for node in hidden:
        node.domain = HIDDEN
    while True:
        found = _inferred(model)
        for name, info in found.items():
            if _is_negative(info):
                raise ModelError(
                    "an axis of this tensor would have a negative size: a window does not fit its input",
                    where=name,
                    hint="give the inputs the sizes that the model is made for, as with --input-shape",
                )
        opened = [n for n in hidden if n.input and n.input[0] in found]
        if not opened:
            return
        for node in opened:
            node.domain = ""
        hidden = [n for n in hidden if n.domain]


def walk(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk(attribute.g)
            for inner in attribute.graphs:
                yield from walk(inner)


def _inferred(model: ModelProto) -> Mapping[str, ValueInfoProto]:
    """Tensors whose rank is known; none where inference objects, which the inference to come will tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return {}
    infos = (*graph.input, *graph.value_info, *graph.output)
    return {i.name: i for i in infos if i.type.tensor_type.HasField("shape")}


def _is_negative(info: ValueInfoProto) -> bool:
    return any(d.HasField("dim_value") and d.dim_value < 0 for d in info.type.tensor_type.shape.dim)
