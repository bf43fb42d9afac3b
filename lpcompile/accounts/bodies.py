"""Nodes with graphs inside: bodies of control flow.

The dearer branch of an If counts. A body that is repeated counts as often as the graph says; a Loop that a call ends
has no figure.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import NodeProto, helper

from lpcompile.accounts.entries import Account, Entry, Uncounted
from lpcompile.accounts.sizes import UnknownSizeError, dims_of
from lpcompile.ir.bodies import Body, captured_names
from lpcompile.ir.dtypes import ONNX_OF_NUMPY
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

SMALL_BYTES = 1024  # constants that shapes may depend on
Count = Callable[[LpGraph], Account]


def inner_account(graph: LpGraph, node: Node, count: Count) -> Account:
    """What is inside a node, as often as a call does it; entries are called "NODE/INNER".

    Args:
        graph: of the node.
        node: with bodies.
        count: account of a graph.

    Raises:
        UnknownSizeError: a call decides how often.
    """
    found = [count(_body_graph(graph, node, body)) for body in node.subgraphs]
    if node.op == "If":
        dearer = max(found, key=lambda a: (a.acev2(), a.bytes))
        unknown = tuple(u for a in found for u in a.uncounted)  # of either: it might be the dearer one
        return renamed(Account(dearer.entries, unknown), node, 1)
    return renamed(found[0], node, _repetitions(node))


def _repetitions(node: Node) -> int:
    if node.op == "Scan":
        axes = _scanned_axes(node)
        return dims_of(node.inputs[len(node.inputs) - len(axes)])[axes[0]]
    trips, condition = (*node.inputs, None, None)[:2]
    if node.op == "Loop" and trips is not None and trips.is_constant:
        started = condition is not None and condition.is_constant and bool(condition.values.all())
        if condition is None or (started and _goes_on(node.subgraphs[0])):
            return int(trips.values.reshape(()))
    raise UnknownSizeError(f"a call decides how often {node.op} repeats its body")


def _scanned_axes(node: Node) -> list[int]:
    count = int(node.attrs["num_scan_inputs"])
    return [int(a) for a in node.attrs.get("scan_input_axes") or [0] * count]


def _goes_on(body: Body) -> bool:
    """Whether the condition that a Loop's body gives is the one it got, or a constant that holds."""
    proto = body.proto
    makers = {name: n for n in proto.node for name in n.output}
    name, constants = proto.output[0].name, {t.name: t for t in proto.initializer}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    given = makers[name].attribute if name in makers and makers[name].op_type == "Constant" else ()
    tensor = next((a.t for a in given if a.name == "value"), constants.get(name))
    held = tensor is not None and bool(onnx.numpy_helper.to_array(tensor).all())
    return held or name == proto.input[1].name


def renamed(account: Account, node: Node, times: int) -> Account:
    """What is inside a node, so many times, under its name."""

    def entry(e: Entry) -> Entry:
        work = type(e.work)({key: n * times for key, n in e.work.items()})
        return Entry(f"{node.name}/{e.node}", e.op, work, e.ace * times, e.bytes * times)

    missing = (Uncounted(f"{node.name}/{u.node}", u.op, u.reason) for u in account.uncounted)
    return Account(tuple(map(entry, account.entries)), tuple(missing))


def _body_graph(graph: LpGraph, node: Node, body: Body) -> LpGraph:
    """A body as a graph of its own; what it reads from outside are inputs."""
    proto = body.proto
    captured = [graph.value(name) for name in captured_names(proto) if name in graph]
    model = _model(graph, proto.node, captured, [o.name for o in proto.output])
    model.graph.initializer.extend(proto.initializer)
    scans = node.op == "Scan"
    outer = node.inputs[-len(proto.input) :] if scans else [None, None, *node.inputs[2:]]
    axes = _scanned_axes(node) if scans else []
    cut: list[int | None] = [*[None] * (len(proto.input) - len(axes)), *axes]
    for info, value, axis in zip(proto.input, outer, cut, strict=False):
        typed = onnx.ValueInfoProto()
        typed.CopyFrom(info)
        if value is not None and value.dtype is not None and value.shape is not None:
            shape = list(value.shape)
            if axis is not None:
                del shape[axis]
            typed = helper.make_tensor_value_info(info.name, ONNX_OF_NUMPY[value.dtype], shape)
        model.graph.input.append(typed)
    return _shaped(model)


def _model(
    graph: LpGraph, nodes: Iterable[NodeProto], inputs: Iterable[Value], outputs: Iterable[str]
) -> onnx.ModelProto:
    """A model of these nodes; small constants stay so, others become inputs."""
    infos, constants = [], []
    for value in dict.fromkeys(inputs):
        if value.is_constant and value.nbytes <= SMALL_BYTES:
            constants.append(onnx.numpy_helper.from_array(np.asarray(value.values), value.name))
            continue
        shape = value.dims if value.is_constant else value.shape
        dtype = np.dtype(np.float32) if value.dtype is None else value.dtype
        infos.append(helper.make_tensor_value_info(value.name, ONNX_OF_NUMPY[dtype], shape))
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    made = helper.make_graph(list(nodes), "inner", infos, ends, constants)
    imports = [helper.make_opsetid(k, v) for k, v in graph.opset_imports.items()]
    return helper.make_model(made, opset_imports=imports, ir_version=graph.ir_version)


def _shaped(model: onnx.ModelProto) -> LpGraph:
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    return graph
