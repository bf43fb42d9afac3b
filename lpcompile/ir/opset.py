"""Raising the opset of a model, node by node, with the version converter of ONNX.

Only nodes whose schema changed are converted, each as a model of its own: names of tensors stay, large
weights are never touched, and what cannot be converted is known by the name of its node. Where the
converter of ONNX 1.23 changes what is computed, the change is mended or refused here; each such case has a
test against ONNX Runtime.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import Tensor, Variable

from lpcompile.ir import export, value_info
from lpcompile.ir.attributes import Attributes
from lpcompile.ir.bodies import BodyNode
from lpcompile.ir.runtime_operators import is_of_runtime
from lpcompile.ir.shapes import READ_BY_INFERENCE_BYTES, inferred_infos
from lpcompile.ir.store import Shape, StoredNode, contains, is_constant, weights_of
from lpcompile.ir.weights import Weights

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph

# Opset 6 still has many models and no kernels in ONNX Runtime; what came before is too rare to be trusted.
_OLDEST = 6
_CONTROL_FLOW = {"If": 1, "Loop": 1, "Scan": 9}  # since when a newer version means the same


class _RefusedError(Exception):
    """Why a node cannot be converted."""


@dataclass(frozen=True)
class _Converted:
    """What stands for one node at the new opset."""

    node: StoredNode
    nodes: list[NodeProto]
    constants: dict[str, Weights]


def raise_opset(graph: "LpGraph", to: int) -> str | None:
    """Convert to opset `to`; None when done or not needed, else why not, with the graph unchanged.

    The caller compares outputs where it matters. Names of graph tensors stay; inserted nodes are called
    after the one they serve.
    """
    since = graph.opset
    if since >= to:
        return None
    newest = onnx.defs.onnx_opset_version()
    if since < _OLDEST:
        return f"opset {since} is older than {_OLDEST}, from where conversion is trusted"
    if to > newest:
        return f"the installed onnx package knows opsets up to {newest}"
    if graph.functions:
        return "the model has functions of its own, which import the old opset"
    infos = inferred_infos(graph)
    changed = []
    for node in graph._store.order():
        try:
            _check_bodies(node, since, to)
            if not node.domain and not node.attrs.bodies() and _schema_changes(node.op, since, to):
                converted = _convert(graph, node, infos, since, to)
                changed += [] if converted is None else [converted]
        except _RefusedError as refusal:
            return f"node {node.name!r} ({node.op}): {refusal}"
    for converted in changed:
        _splice(graph, converted)
    graph.opset_imports[""] = to
    graph.notes.append(f"opset raised from {since} to {to}")
    return None


def _schema_changes(op: str, since: int, to: int) -> bool:
    if is_of_runtime(op, since):
        return False
    try:
        return bool(
            onnx.defs.get_schema(op, since).since_version != onnx.defs.get_schema(op, to).since_version
        )
    except onnx.defs.SchemaError as error:
        raise _RefusedError(f"ONNX {onnx.__version__} does not know this operator") from error


def _check_bodies(node: StoredNode, since: int, to: int) -> None:
    for body in node.attrs.bodies():
        if since < _CONTROL_FLOW.get(node.op, to):
            raise _RefusedError("this control flow changed its meaning")
        for inner in body.nodes():
            if not inner.domain and not _means_the_same(inner, since, to):
                raise _RefusedError(f"{inner.op} in its body would have to be rewritten")


def _means_the_same(node: BodyNode, since: int, to: int) -> bool:
    if node.subgraphs:
        return since >= _CONTROL_FLOW.get(node.op, to)
    if not _schema_changes(node.op, since, to):
        return True
    proto = _essence(node.proto)
    model = _one_node_model(proto, [], since)
    try:
        nodes = onnx.version_converter.convert_version(model, to).graph.node
    except (RuntimeError, ValueError):
        return False
    return len(nodes) == 1 and _essence(nodes[0]) == proto and node.op not in _MENDERS


def _essence(node: NodeProto) -> NodeProto:
    twin = NodeProto()
    twin.CopyFrom(node)
    for field in ("doc_string", "metadata_props"):
        twin.ClearField(field)
    return twin


def _one_node_model(
    node: NodeProto, inputs: Iterable[ValueInfoProto | TensorProto], opset: int
) -> ModelProto:
    model = ModelProto(ir_version=8)
    model.opset_import.add(version=opset)
    model.graph.name = "one"
    model.graph.node.append(node)
    given = set()
    for item in inputs:
        (model.graph.initializer if isinstance(item, TensorProto) else model.graph.input).append(item)
        given.add(item.name)
    model.graph.input.extend(
        ValueInfoProto(name=n) for n in dict.fromkeys(node.input) if n and n not in given
    )
    return model


def _convert(
    graph: "LpGraph", node: StoredNode, infos: dict[str, ValueInfoProto], since: int, to: int
) -> _Converted | None:
    """What stands for a node at opset `to`; None where it may stay as it is."""
    if node.op == "Dropout":
        _drop_unread_mask(graph, node)
    _check_meaning(node, since, to)
    proto = NodeProto()
    export.write_node(proto, node)
    given = {t.name: _described(t, infos) for t in node.inputs if not t.is_empty()}
    model = _one_node_model(proto, given.values(), since)
    for name in filter(None, proto.output):
        model.graph.output.append(infos.get(name, ValueInfoProto(name=name)))
    try:
        converted = onnx.version_converter.convert_version(model, to).graph
    except (RuntimeError, ValueError) as error:
        raise _RefusedError(f"the converter of ONNX failed: {' '.join(str(error).split())[:160]}") from error
    missing = set(filter(None, proto.output)) - {n for c in converted.node for n in c.output}
    if missing:
        raise _RefusedError(f"the converter of ONNX lost {sorted(missing)[0]!r}")
    nodes, constants = [], {}
    for tensor in converted.initializer:
        if tensor.name not in given:
            constants[tensor.name] = Weights.of_proto(tensor)
    for new in converted.node:
        if new.op_type == "Constant":
            constants[new.output[0]] = Weights.of_proto(new.attribute[0].t)
        else:
            nodes.append(new)
    result = _Converted(node, nodes, constants)
    mend = _MENDERS.get(node.op)
    if mend is not None:
        mend(result, given, since, to)
    same = not constants and len(nodes) == 1 and _essence(nodes[0]) == _essence(proto)
    return None if same else result


def _described(tensor: Tensor, infos: dict[str, ValueInfoProto]) -> ValueInfoProto | TensorProto:
    if is_constant(tensor) and weights_of(tensor).nbytes <= READ_BY_INFERENCE_BYTES:
        proto = TensorProto()
        weights_of(tensor).write_to(proto, tensor.name)
        return proto
    if tensor.name in infos:
        return infos[tensor.name]
    info = ValueInfoProto()
    value_info.write(info, tensor)
    return info


def _check_meaning(node: StoredNode, since: int, to: int) -> None:
    """Refuse what the converter passes on although it means something else."""
    if node.op == "BatchNormalization" and since < 9 <= to and node.attrs.get("spatial", 1) != 1:
        raise _RefusedError("statistics per element (spatial=0) exist only before opset 9")
    if node.op == "Dropout" and since < 10 <= to and len(node.outputs) > 1:
        raise _RefusedError("its mask changes from float to bool in opset 10")


def _drop_unread_mask(graph: "LpGraph", node: StoredNode) -> None:
    store = graph._store
    for mask in list(node.outputs[1:]):
        if not (mask.outputs or store.captured[mask.name] or contains(store.outputs, mask)):
            node.outputs.pop()
            store.discard(mask)


_Given = dict[str, ValueInfoProto | TensorProto]


def _mend_resize(converted: _Converted, given: _Given, since: int, to: int) -> None:
    """Before opset 11 Resize and Upsample had no choice of coordinates; the new defaults are others.

    "nearest" was rounding down when growing; ONNX Runtime rounds up when shrinking.
    """
    for node in converted.nodes:
        if node.op_type != "Resize" or not since < 11 <= to:
            continue
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
        node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        if mode == b"nearest":
            rounding = _rounding_of_scales(_constant(node.input[2], converted, given))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", rounding))


def _constant(name: str, converted: _Converted, given: _Given) -> NDArray[Any] | None:
    if name in converted.constants:
        return converted.constants[name].array()
    tensor = given.get(name)
    return Weights.of_proto(tensor).array() if isinstance(tensor, TensorProto) else None


def _rounding_of_scales(scales: NDArray[Any] | None) -> str:
    if scales is None:
        raise _RefusedError("its scales are not constant, so that the rounding is not known")
    if np.all(scales >= 1):
        return "floor"
    if np.all(scales <= 1):
        return "ceil"
    raise _RefusedError("it grows one axis and shrinks another, with different rounding")


def _mend_roi_align(converted: _Converted, given: _Given, since: int, to: int) -> None:
    """Opset 16 made half pixels the default."""
    for node in converted.nodes:
        named = any(a.name == "coordinate_transformation_mode" for a in node.attribute)
        if since < 16 <= to and not named:
            node.attribute.append(
                onnx.helper.make_attribute("coordinate_transformation_mode", "output_half_pixel")
            )


def _mend_prelu(converted: _Converted, given: _Given, since: int, to: int) -> None:
    """Before opset 7 a slope of shape (C,) went along axis 1; now it broadcasts like any other tensor."""
    node = converted.nodes[-1]
    shapes = [_shape(given[name]) for name in node.input]
    if since >= 7 or shapes[1] == (1,):
        return
    if shapes[0] is None or shapes[1] is None:
        raise _RefusedError("the ranks of its inputs are not known")
    if len(shapes[1]) == 1 and len(shapes[0]) > 2:
        dims = np.array([-1, *[1] * (len(shapes[0]) - 2)], np.int64)
        converted.constants["slope_shape"] = Weights.of_array(dims)
        converted.nodes.insert(
            -1, NodeProto(op_type="Reshape", input=[node.input[1], "slope_shape"], output=["slope"])
        )
        node.input[1] = "slope"


def _mend_hardmax(converted: _Converted, given: _Given, since: int, to: int) -> None:
    """Before opset 13 it took all axes from `axis` on as one; the converter forgets that."""
    node = converted.nodes[-1]
    shape = _shape(given[node.input[0]])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if since < 13 <= to and (shape is None or axis not in {-1, len(shape) - 1}):
        raise _RefusedError("it works on more than the last axis, or the rank is not known")


def _shape(given: ValueInfoProto | TensorProto) -> Shape | None:
    return tuple(given.dims) if isinstance(given, TensorProto) else value_info.read(given)[1]


_MENDERS: dict[str, Callable[[_Converted, _Given, int, int], None]] = {
    "Hardmax": _mend_hardmax,
    "PRelu": _mend_prelu,
    "Resize": _mend_resize,
    "RoiAlign": _mend_roi_align,
    "Upsample": _mend_resize,
}


def _splice(graph: "LpGraph", converted: _Converted) -> None:
    """Put the new nodes in the place of the old one; the one that fills its outputs takes its name."""
    store, old = graph._store, converted.node
    tensors = {t.name: t for t in (*old.inputs, *old.outputs) if not t.is_empty()}
    outputs = {t.name for t in old.outputs if not t.is_empty()}
    metadata, doc_string, name = old.metadata, old.doc_string, old.name
    following = _following(store.nodes, old)
    # Detached by hand: its tensors live on in the new nodes.
    old.inputs.clear()
    old.outputs.clear()
    del store.nodes[name]
    for constant, weights in converted.constants.items():
        tensors[constant] = store.add_constant(store.fresh(f"{name}/{constant.strip('_')}"), weights)
    for proto in converted.nodes:
        for output in filter(None, proto.output):
            if output not in tensors:
                tensors[output] = store.add_variable(store.fresh(f"{name}/{output.strip('_')}"))
        fills = bool(outputs.intersection(proto.output))
        node = StoredNode(
            proto.op_type,
            name if fills and name not in store.nodes else store.fresh_node_name(f"{name}/{proto.op_type}"),
            "",
            Attributes(proto.op_type, "", {a.name: a for a in proto.attribute}),
            [tensors[n] if n else Variable.empty() for n in proto.input],
            [tensors[n] if n else Variable.empty() for n in proto.output],
        )
        if fills:
            node.metadata, node.doc_string = dict(metadata), doc_string
        store.add_node(node, following)


def _following(nodes: dict[str, StoredNode], node: StoredNode) -> StoredNode | None:
    names = iter(nodes)
    for name in names:
        if name == node.name:
            break
    following = next(names, None)
    return None if following is None else nodes[following]
