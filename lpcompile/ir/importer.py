"""From an ONNX proto to an `LpGraph`: every check that a model must pass before anything else sees it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto
from onnx_graphsurgeon.ir.tensor import Tensor, Variable

from lpcompile.counted import counted
from lpcompile.errors import ModelError, PassError
from lpcompile.ir import value_info
from lpcompile.ir.attributes import Attributes
from lpcompile.ir.external import ExternalData
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.skeleton import skeleton
from lpcompile.ir.store import Store, StoredNode, StoredVariable, is_constant
from lpcompile.ir.weights import Reader, Weights

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph

# IR version 4 lets initialisers stand without being graph inputs.
_IR_WITH_FREE_INITIALISERS = 4
_IR_WITH_OPSETS = 3
# A model that uses no operator of ai.onnx names no version; this is what new nodes would get.
_DEFAULT_OPSET = 17


def fill(
    graph: "LpGraph", proto: ModelProto, base_dir: Path | None, raw: Mapping[int, memoryview] | None = None
) -> None:
    """Read `proto` into an empty graph.

    Args:
        graph: an empty one.
        proto: the model; a reference is kept to its tensors.
        base_dir: folder that external data must lie in; None where there is none.
        raw: `raw_data` of initialisers, by index, that were cut out of the proto.

    Raises:
        ModelError: the model contradicts itself, or its data are damaged or missing.
    """
    _check_header(proto)
    source = _without_functions(graph, proto) if proto.functions else proto
    graph.ir_version = proto.ir_version
    graph.opset_imports = _opset_imports(source)
    graph.metadata = {entry.key: entry.value for entry in proto.metadata_props}
    graph.name, graph.doc_string = proto.graph.name, proto.graph.doc_string
    graph._header = _header(proto)
    if proto.training_info:
        graph.notes.append("training information of the model was dropped")
    reader = None if base_dir is None else ExternalData(base_dir)
    store = graph._store
    _add_tensors(graph, store, proto.graph, reader, raw or {})
    infos = {i.name: value_info.known(i) for i in (*source.graph.value_info, *proto.graph.output)}
    entries = [_Entry(i, node) for i, node in enumerate(source.graph.node)]
    _add_constants(store, entries, reader)
    _add_nodes(store, [e for e in entries if not e.is_constant], infos)
    _add_outputs(store, proto.graph)
    try:
        store.order()
    except PassError as error:
        raise ModelError(error.message, where=error.where) from error
    if graph.ir_version < _IR_WITH_FREE_INITIALISERS and any(map(is_constant, store.tensors.values())):
        graph.ir_version = _IR_WITH_FREE_INITIALISERS
        graph.notes.append(f"IR version raised from {proto.ir_version} to {graph.ir_version}")


def _check_header(proto: ModelProto) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError("this is no ONNX model", hint="give a file that onnx.checker accepts")
    if not proto.graph.output:
        raise ModelError("the graph has no outputs", hint="export the model with at least one output")
    if not all(isinstance(text, str) for text in _texts(proto)):
        raise ModelError("a name or a text in the model is not UTF-8", hint="the file is damaged")


def _texts(proto: ModelProto) -> Iterator[str]:
    """Texts that are read here; protobuf gives bytes for those that are none."""
    graph = proto.graph
    yield from (proto.domain, proto.doc_string, graph.name, graph.doc_string)
    for opset in proto.opset_import:
        yield opset.domain
    for node in graph.node:
        yield from (
            node.name,
            node.op_type,
            node.domain,
            node.doc_string,
            node.overload,
            *node.input,
            *node.output,
        )
        yield from (attribute.name for attribute in node.attribute)
        for entry in node.metadata_props:
            yield from (entry.key, entry.value)
    for tensor in graph.initializer:
        yield tensor.name
    for info in (*graph.input, *graph.output, *graph.value_info):
        yield info.name
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)
    for entry in (*proto.metadata_props, *graph.metadata_props):
        yield from (entry.key, entry.value)


def _header(proto: ModelProto) -> ModelProto:
    """What is said about the model as a whole, for the way back."""
    header = ModelProto(domain=proto.domain, model_version=proto.model_version, doc_string=proto.doc_string)
    for field in ("quantization_annotation", "metadata_props"):
        if hasattr(header.graph, field):
            getattr(header.graph, field).extend(getattr(proto.graph, field))
    return header


def _opset_imports(proto: ModelProto) -> dict[str, int]:
    imports = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    if not imports and proto.ir_version < _IR_WITH_OPSETS:
        imports[""] = 1
    if "" not in imports:
        if any(node.domain in {"", "ai.onnx"} for node in proto.graph.node):
            raise ModelError("the model does not say which version of the ONNX operator set it uses")
        imports[""] = _DEFAULT_OPSET
    return imports


def _without_functions(graph: "LpGraph", proto: ModelProto) -> ModelProto:
    try:
        inlined: ModelProto = onnx.inliner.inline_local_functions(skeleton(proto))
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the model's own functions cannot be inlined: {error}") from error
    for node in inlined.graph.node:
        if node.domain == DOMAIN and any(f.name == node.op_type for f in proto.functions):
            raise ModelError(
                f"function '{DOMAIN}::{node.op_type}' cannot be inlined, and is none of the compiler's own",
                where=node.name,
                hint="write it for the version of the operators that the model has, or give its domain another name",
            )
    graph.functions = {(f.domain, f.name): f for f in inlined.functions}
    names = sorted({f.name for f in proto.functions} - {name for _, name in graph.functions})
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        graph.notes.append(f"{counted(len(names), 'model-local function', 'was', 'were')} inlined ({shown})")
    return inlined


def _add_tensors(
    graph: "LpGraph", store: Store, proto: GraphProto, reader: Reader | None, raw: Mapping[int, memoryview]
) -> None:
    for i, tensor in enumerate(proto.initializer):
        if not tensor.name:
            raise ModelError("an initializer has no name")
        _add_constant(store, tensor.name, Weights.of_proto(tensor, reader, raw.get(i)))
    for sparse in proto.sparse_initializer:
        _add_constant(store, sparse.values.name, _dense(sparse, reader))
    shadowed = 0
    for info in proto.input:
        existing = store.tensors.get(info.name)
        if existing is not None and is_constant(existing):
            shadowed += 1
            continue
        if existing is not None or not info.name:
            raise ModelError(
                f"two graph inputs are called {info.name!r}" if info.name else "an input has no name"
            )
        dtype, shape = value_info.read(info)
        store.inputs.append(store.add_variable(info.name, dtype, shape, value_info.known(info)))
    if shadowed and graph.ir_version >= _IR_WITH_FREE_INITIALISERS:
        graph.notes.append(f"{counted(shadowed, 'graph input')} with default values became constants")
    elif shadowed:
        graph.notes.append(f"{counted(shadowed, 'initialiser')} listed as graph inputs became constants")


def _add_constant(store: Store, name: str, weights: Weights) -> None:
    if name in store.tensors:
        raise ModelError(f"tensor {name!r} is defined twice")
    store.add_constant(name, weights)


class _Entry:
    """A node proto with its place in the file, from which unnamed nodes take their names."""

    def __init__(self, index: int, proto: NodeProto) -> None:
        self.proto = proto
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.default_name = f"{proto.op_type}_{index}"
        self.is_constant = proto.op_type == "Constant" and not self.domain and len(proto.attribute) == 1


def _add_constants(store: Store, entries: Iterable[_Entry], reader: Reader | None) -> None:
    for entry in entries:
        if entry.is_constant and entry.proto.output:
            weights = _constant_node(entry.proto.attribute[0], reader)
            if weights is None:
                raise ModelError("a Constant node without a usable value", where=entry.proto.name)
            _add_constant(store, entry.proto.output[0], weights)


def _constant_node(attribute: AttributeProto, reader: Reader | None) -> Weights | None:
    match attribute.name:
        case "value":
            return Weights.of_proto(attribute.t, reader)
        case "sparse_value":
            return _dense(attribute.sparse_tensor, reader)
        case "value_float":
            return Weights.of_array(np.array(attribute.f, np.float32))
        case "value_floats":
            return Weights.of_array(np.array(attribute.floats, np.float32))
        case "value_int":
            return Weights.of_array(np.array(attribute.i, np.int64))
        case "value_ints":
            return Weights.of_array(np.array(attribute.ints, np.int64))
        case "value_string" | "value_strings":
            texts = [attribute.s] if attribute.name == "value_string" else list(attribute.strings)
            dims = [] if attribute.name == "value_string" else [len(texts)]
            return Weights.of_proto(TensorProto(data_type=TensorProto.STRING, dims=dims, string_data=texts))
    return None


def _dense(sparse: SparseTensorProto, reader: Reader | None) -> Weights:
    """A sparse tensor written out; its indices are linear (nnz,) or one coordinate a row (nnz, rank)."""
    values = Weights.of_proto(sparse.values, reader).array()
    indices = Weights.of_proto(sparse.indices, reader).array().astype(np.int64)
    shape = tuple(sparse.dims)
    if any(d < 0 for d in shape) or int(np.prod(shape, dtype=object)) > 2**34:
        raise ModelError(f"sparse initializer {sparse.values.name!r} has impossible dimensions {list(shape)}")
    dense = np.zeros(shape, values.dtype)
    try:
        if indices.ndim == 2:
            dense[tuple(indices.T)] = values
        else:
            dense.reshape(-1)[indices] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"sparse initializer {sparse.values.name!r}: {error}") from error
    return Weights.of_array(dense)


def _add_nodes(store: Store, entries: list[_Entry], infos: dict[str, onnx.ValueInfoProto]) -> None:
    filled = {t.name for t in store.inputs} | {n for n, t in store.tensors.items() if is_constant(t)}
    for entry in entries:
        for name in filter(None, entry.proto.output):
            if name in filled:
                raise ModelError(
                    f"tensor {name!r} is defined twice", where=entry.proto.name or entry.default_name
                )
            filled.add(name)
            info = infos.get(name)
            dtype, shape = (None, None) if info is None else value_info.read(info)
            store.tensors[name] = StoredVariable(name, dtype, shape, info)
    taken = {e.proto.name for e in entries if e.proto.name}
    for entry in entries:
        _add_node(store, entry, taken)


def _add_node(store: Store, entry: _Entry, taken: set[str]) -> None:
    proto = entry.proto
    name = proto.name
    if not name or name in store.nodes:
        stem = name or entry.default_name
        name = stem
        number = 1
        while name in taken:
            name = f"{stem}_{number}"
            number += 1
        taken.add(name)
    attrs = Attributes(proto.op_type, entry.domain, {a.name: a for a in proto.attribute})
    inputs = [_resolved(store, n, name) for n in proto.input]
    while inputs and inputs[-1].is_empty():
        inputs.pop()
    outputs = [store.tensors[n] if n else Variable.empty() for n in proto.output]
    node = StoredNode(proto.op_type, name, entry.domain, attrs, inputs, outputs)
    node.doc_string, node.overload = proto.doc_string, getattr(proto, "overload", "")
    node.metadata = {e.key: e.value for e in getattr(proto, "metadata_props", ())}
    store.add_node(node)
    for captured in node.captured:
        if captured not in store.tensors:
            raise ModelError(f"a body reads {captured!r}, which nothing defines", where=name)


def _resolved(store: Store, name: str, node: str) -> Tensor:
    if not name:
        return Variable.empty()
    tensor = store.tensors.get(name)
    if tensor is None:
        raise ModelError(f"input {name!r} is defined nowhere", where=f"node {node!r}")
    return tensor


def _add_outputs(store: Store, proto: GraphProto) -> None:
    for info in proto.output:
        tensor = store.tensors.get(info.name)
        if tensor is None:
            raise ModelError(f"nothing computes the graph output {info.name!r}")
        store.outputs.append(tensor)
