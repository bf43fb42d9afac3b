"""Structural checks that run between passes: a pass that breaks one has a bug."""

import onnx
from onnx_graphsurgeon.ir.tensor import Tensor

from lpcompile.errors import ModelError, PassError
from lpcompile.ir.bodies import bodies_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.runtime_operators import is_of_runtime
from lpcompile.ir.shapes import light_proto
from lpcompile.ir.store import Store, is_constant


def verify_graph(graph: LpGraph, *, schemas: bool = True) -> None:
    """Check that a graph hangs together.

    Every name stands for one tensor, every input is filled by a node, a constant or the caller, there is no
    cycle, all outputs are produced, edges agree in both directions, names bodies read are there, every domain
    has a version. With `schemas`, the ONNX checker also compares each node with its schema.

    Raises:
        PassError: what is wrong; `where` names the node.
    """
    _check_names(graph)
    _check_edges(graph)
    graph._store.order()
    if schemas:
        _check_schemas(graph)


def require_sound(graph: LpGraph) -> None:
    """The same of a model as it came, where no runtime has loaded it: what is wrong is then not our fault.

    Raises:
        ModelError: what is wrong; `where` names the node.
    """
    try:
        verify_graph(graph)
    except PassError as error:
        hint = "export the model again; onnx.checker.check_model tells more"
        raise ModelError(error.message, where=error.where, hint=hint) from error


def _check_names(graph: LpGraph) -> None:
    store = graph._store
    for name, tensor in store.tensors.items():
        if tensor.name != name:
            raise PassError(f"tensor {tensor.name!r} is entered as {name!r}")
        if len(tensor.inputs) > 1:
            nodes = ", ".join(n.name for n in tensor.inputs)
            raise PassError(f"tensor {name!r} is filled by several nodes: {nodes}", where=nodes)
        if tensor.inputs and (is_constant(tensor) or any(tensor is t for t in store.inputs)):
            raise PassError(f"node fills {name!r}, which has a value already", where=tensor.inputs[0].name)
        if name in store.body_names:
            raise PassError(f"tensor {name!r} has the name of one inside a control-flow body")
    for name, node in store.nodes.items():
        if node.name != name:
            raise PassError(f"node {node.name!r} is entered as {name!r}", where=node.name)


def _check_edges(graph: LpGraph) -> None:
    store = graph._store
    inputs = {id(t) for t in store.inputs}
    for node in store.nodes.values():
        if node.domain not in graph.opset_imports and (node.domain, node.op) not in graph.functions:
            raise PassError(f"domain {node.domain!r} has no version", where=node.name)
        for tensor in node.inputs:
            if tensor.is_empty():
                continue
            if not _entered(store, tensor):
                raise PassError(f"input {tensor.name!r} is no tensor of this graph", where=node.name)
            if not (tensor.inputs or is_constant(tensor) or id(tensor) in inputs):
                raise PassError(f"input {tensor.name!r} is filled by nothing", where=node.name)
            if not any(reader is node for reader in tensor.outputs):
                raise PassError(f"input {tensor.name!r} does not know its reader", where=node.name)
        for tensor in node.outputs:
            if not tensor.is_empty() and not _entered(store, tensor):
                raise PassError(f"output {tensor.name!r} is no tensor of this graph", where=node.name)
        for name in node.captured:
            outer = store.tensors.get(name)
            if outer is None or not (outer.inputs or is_constant(outer) or id(outer) in inputs):
                raise PassError(f"a body reads {name!r}, which is filled by nothing", where=node.name)
    for tensor in store.outputs:
        if not (tensor.inputs or is_constant(tensor) or id(tensor) in inputs):
            raise PassError(f"graph output {tensor.name!r} is produced by nothing")


def _entered(store: Store, tensor: Tensor) -> bool:
    return store.tensors.get(tensor.name) is tensor


def _check_schemas(graph: LpGraph) -> None:
    """Node by node, so that the message can name the node; domains without schemas pass."""
    light = light_proto(graph)
    context = onnx.checker.C.CheckerContext()
    context.ir_version = light.ir_version
    context.opset_imports = {o.domain: o.version for o in light.opset_import}
    for node in light.graph.node:
        # The checker would look for what a body reads from outside, which it is not told.
        if (node.domain, node.op_type) in graph.functions or bodies_of(node):
            continue
        if not node.domain and is_of_runtime(node.op_type, graph.opset):
            continue
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            raise PassError(str(error).splitlines()[0], where=node.name) from error
