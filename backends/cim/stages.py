"""Split a reference graph into what the machine does and what the host does around it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, helper
from onnx.shape_inference import infer_shapes

from lpcompile.ir.called_functions import called_functions, operators_of
from lpcompile.ir.node import Node


@dataclass
class Stage:
    """Nodes that run together, in execution order.

    Attributes:
        device: whether the machine runs them.
        nodes: names.
        inputs, outputs: tensors that enter and leave, in order of their first use.
        reasons: node -> why the machine does not do it.
    """

    device: bool
    nodes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def split(proto: ModelProto, nodes: Mapping[str, Node], reason: Callable[[Node], str]) -> list[Stage]:
    """Cut a graph into as few stages as a greedy order gives.

    Args:
        proto: the graph, nodes in execution order.
        nodes: its nodes by name.
        reason: why the machine does not do a node; empty where it does.
    """
    why = {n.name: reason(nodes[n.name]) for n in proto.graph.node}
    constants = {i.name for i in proto.graph.initializer}
    known = {v.name for v in proto.graph.input} | constants
    left = list(proto.graph.node)
    stages: list[Stage] = []
    device = False
    while left:
        stage = Stage(device)
        waiting = []
        for node in left:
            if (not why[node.name]) == device and all(t in known for t in read_names(node)):
                stage.nodes.append(node.name)
                known |= set(node.output)
                if why[node.name]:
                    stage.reasons[node.name] = why[node.name]
            else:
                waiting.append(node)
        left, device = waiting, not device
        if stage.nodes:
            stages.append(stage)
    stages = _with_own_floats(proto, stages, constants)
    _connect(proto, stages, constants)
    return stages


def _with_own_floats(proto: ModelProto, stages: Sequence[Stage], constants: set[str]) -> list[Stage]:
    """Let every host stage that reads dequantised codes dequantise them itself.

    Codes are a quarter of the bytes, and a runtime that finds both in one graph fuses them as it does in the whole one.
    """
    protos = {n.name: n for n in proto.graph.node}
    place = {name: i for i, name in enumerate(protos)}
    makers = {
        n.output[0]: n.name
        for n in proto.graph.node
        if n.op_type == "DequantizeLinear" and constants.issuperset(n.input[1:])
    }
    leave = {v.name for v in proto.graph.output}
    reasons = {n: r for s in stages for n, r in s.reasons.items()}
    found: list[Stage] = []
    for stage in stages:
        nodes = stage.nodes
        if not stage.device:
            read = {t for n in nodes for t in read_names(protos[n])}
            more = {makers[t] for t in read if t in makers}
            unread = {n for t, n in makers.items() if t not in read and t not in leave}
            nodes = sorted({*nodes, *more} - unread, key=lambda n: place[n])
        if found and found[-1].device == stage.device:
            found[-1].nodes += nodes
        elif nodes:
            found.append(Stage(stage.device, nodes, reasons={n: reasons[n] for n in nodes if n in reasons}))
    return found


def read_names(node: NodeProto) -> list[str]:
    """Tensors that a node reads, those that its bodies take from outside included."""
    found = [t for t in node.input if t]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inner = {i.name for i in graph.initializer} | {v.name for v in graph.input}
            for body in graph.node:
                found += [t for t in read_names(body) if t not in inner]
                inner |= set(body.output)
            found += [v.name for v in graph.output if v.name not in inner]
    return found


def _connect(proto: ModelProto, stages: Sequence[Stage], constants: set[str]) -> None:
    protos = {n.name: n for n in proto.graph.node}
    wanted = {v.name for v in proto.graph.output}
    for stage in reversed(stages):
        made: dict[str, None] = {}
        read: dict[str, None] = {}
        for name in stage.nodes:
            for t in read_names(protos[name]):
                if t not in made and t not in constants:
                    read[t] = None
            made |= dict.fromkeys(o for o in protos[name].output if o)
        stage.inputs = list(read)
        stage.outputs = [t for t in made if t in wanted]
        wanted |= set(read)
    given: set[str] = set()
    for stage in stages:  # what two stages compute leaves the first
        stage.outputs = [t for t in stage.outputs if t not in given]
        given |= set(stage.outputs)


def host_model(proto: ModelProto, stage: Stage) -> bytes:
    """The nodes of a host stage as a model of their own."""
    names = set(stage.nodes)
    nodes = [n for n in proto.graph.node if n.name in names]
    read = {t for n in nodes for t in read_names(n)}
    known = {v.name: v for v in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)}
    if any(t not in known for t in (*stage.inputs, *stage.outputs)):
        known |= {v.name: v for v in infer_shapes(proto).graph.value_info}
    graph = helper.make_graph(
        nodes,
        "host",
        [known[t] for t in stage.inputs],
        [known[t] for t in stage.outputs],
        [i for i in proto.graph.initializer if i.name in read],
        value_info=[v for v in proto.graph.value_info if any(v.name in n.output for n in nodes)],
    )
    model = ModelProto()
    model.CopyFrom(proto)
    model.graph.CopyFrom(graph)
    functions = called_functions(operators_of(nodes), proto.functions)
    del model.functions[:]
    model.functions.extend(functions)
    del model.metadata_props[:]
    data: bytes = model.SerializeToString(deterministic=True)
    return data
