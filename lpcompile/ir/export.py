"""From an `LpGraph` to an ONNX proto: order, liveness, metadata, types, packed data."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto
from onnx_graphsurgeon.ir.tensor import Tensor

from lpcompile.ir import value_info
from lpcompile.ir.called_functions import Operator, called_functions, operators_of
from lpcompile.ir.store import Store, StoredNode, is_constant, weights_of
from lpcompile.ir.weights import Weights
from lpcompile.version import VERSION

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph

# Writes the data of one constant into a proto: (proto, name, weights).
WriteWeights = Callable[[TensorProto, str, Weights], None]

_IR_OF_FUNCTIONS = 8
_IR_OF_TYPE = {
    "UINT4": 10,
    "INT4": 10,
    "FLOAT4E2M1": 11,
    "FLOAT8E8M0": 12,
    "UINT2": 13,
    "INT2": 13,
} | dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 9)


def _write_inline(target: TensorProto, name: str, weights: Weights) -> None:
    weights.write_to(target, name)


def model_proto(
    graph: "LpGraph", write_weights: WriteWeights = _write_inline, outputs: Sequence[str] | None = None
) -> ModelProto:
    """The model as ONNX; `write_weights` decides where the data of constants go.

    Args:
        graph: what to write; it is not changed.
        write_weights: called for each constant.
        outputs: names of tensors to give instead of the graph's own outputs; what only those need is left out.
    """
    store = graph._store
    ends = store.outputs if outputs is None else [store.tensors[name] for name in outputs]
    live = store.live(ends)
    constants = used_constants(store, live, ends)
    functions = called_functions(_operators(live), graph.functions.values())
    model = ModelProto()
    model.ir_version = _ir_version(graph, constants, functions)
    _write_header(graph, model)
    target = model.graph
    target.name, target.doc_string = graph.name, graph.doc_string
    for node in live:
        write_node(target.node.add(), node)
    for tensor in constants:
        write_weights(target.initializer.add(), tensor.name, weights_of(tensor))
    for tensor in store.inputs:
        value_info.write(target.input.add(), tensor)
    for tensor in ends:
        value_info.write(target.output.add(), tensor)
    outside = {t.name for t in (*store.inputs, *ends)}
    for node in live:
        for tensor in node.outputs:
            if not tensor.is_empty() and tensor.name not in outside and _has_type(tensor):
                value_info.write(target.value_info.add(), tensor)
    _write_annotations(graph, model, {t.name for t in constants} | outside)
    model.functions.extend(functions)
    _write_opsets(graph, model, live, functions)
    return model


def without_large_constants(
    graph: "LpGraph", is_large: Callable[[Weights], bool]
) -> tuple[ModelProto, dict[str, Weights]]:
    """The model as ONNX with its small constants alone, and the large ones by name."""
    large: dict[str, Weights] = {}

    def write(target: TensorProto, name: str, weights: Weights) -> None:
        target.name = name
        if is_large(weights):
            large[name] = weights
        else:
            weights.write_to(target, name)

    model = model_proto(graph, write)
    kept = [t for t in model.graph.initializer if t.name not in large]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model, large


def used_constants(store: Store, live: Iterable[StoredNode], outputs: Iterable[Tensor]) -> list[Tensor]:
    """Initialisers that a live node, a body of one, or the caller reads, in order of entry."""
    names = {t.name for t in outputs}
    for node in live:
        names.update(t.name for t in node.inputs)
        names.update(node.captured)
    return [t for name, t in store.tensors.items() if name in names and is_constant(t)]


def _has_type(tensor: Tensor) -> bool:
    return tensor.info is not None or tensor.dtype is not None


def _write_header(graph: "LpGraph", model: ModelProto) -> None:
    header = graph._header
    model.producer_name, model.producer_version = "lpcompile", VERSION
    model.domain, model.model_version, model.doc_string = (
        header.domain,
        header.model_version,
        header.doc_string,
    )
    _write_metadata(model, graph.metadata)
    if hasattr(header.graph, "metadata_props"):
        model.graph.metadata_props.extend(header.graph.metadata_props)


def _write_metadata(target: Any, metadata: dict[str, str]) -> None:
    for key, value in metadata.items():
        entry = target.metadata_props.add()
        entry.key, entry.value = key, str(value)


def _write_annotations(graph: "LpGraph", model: ModelProto, known: set[str]) -> None:
    known = known | {name for node in model.graph.node for name in node.output}
    for annotation in graph._header.graph.quantization_annotation:
        names = {annotation.tensor_name, *(entry.value for entry in annotation.quant_parameter_tensor_names)}
        if names <= known:
            model.graph.quantization_annotation.add().CopyFrom(annotation)


def write_node(target: NodeProto, node: StoredNode) -> None:
    """Fill an empty node proto."""
    target.op_type, target.name = node.op, node.name
    target.input.extend(t.name for t in node.inputs)
    target.output.extend(t.name for t in node.outputs)
    target.attribute.extend(node.attrs.protos())
    if node.domain:
        target.domain = node.domain
    if node.doc_string:
        target.doc_string = node.doc_string
    if node.overload:
        target.overload = node.overload
    if node.metadata and hasattr(target, "metadata_props"):
        _write_metadata(target, node.metadata)


def _operators(live: Iterable[StoredNode]) -> set[Operator]:
    bodies = (body.proto.node for node in live for body in node.attrs.bodies())
    return {(node.domain, node.op) for node in live}.union(*map(operators_of, bodies))


def _write_opsets(
    graph: "LpGraph", model: ModelProto, live: list[StoredNode], functions: list[FunctionProto]
) -> None:
    domains = {domain for domain, _ in _operators(live)} | {f.domain for f in functions}
    domains |= {o.domain for f in functions for o in f.opset_import}
    versions = {o.domain: o.version for f in functions for o in f.opset_import} | dict.fromkeys(
        (f.domain for f in functions), 1
    )
    for domain in sorted(domains | {""}):
        entry = model.opset_import.add()
        entry.domain = domain
        entry.version = graph.opset_imports.get(domain) or versions.get(domain, 1)


def _ir_version(graph: "LpGraph", constants: list[Tensor], functions: list[FunctionProto]) -> int:
    """The model's own IR version, or what its functions and element types need."""
    names = {TensorProto.DataType.Name(weights_of(t).data_type) for t in constants}
    for node in graph._store.nodes.values():
        names.update(
            TensorProto.DataType.Name(a.t.data_type)
            for a in node.attrs.protos()
            if a.type == AttributeProto.TENSOR
        )
    needed = [_IR_OF_TYPE.get(name, 0) for name in names]
    return max([graph.ir_version, *needed, _IR_OF_FUNCTIONS if functions else 0, 4 if constants else 0])
