"""Part of a graph: what some tensors need, from the inputs or from inner tensors that are fed."""

from collections.abc import Collection, Sequence

from onnx_graphsurgeon.ir.tensor import Tensor
from onnx_graphsurgeon.ir.tensor import Variable as SurgeonVariable

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.store import Store, StoredNode, is_constant, weights_of


def part_of(graph: LpGraph, outputs: Sequence[str], fed: Collection[str]) -> LpGraph:
    """A graph of its own that shares the weights, with the nodes that lead to some tensors and no others.

    Args:
        graph: it is not changed.
        outputs: names of the tensors, which are its outputs.
        fed: names of tensors that are inputs of the part, beside those of the graph, under their own names; their type
            is kept, of their shape the rank.
    """
    store, made = graph._store, LpGraph()
    made.metadata, made.opset_imports = dict(graph.metadata), dict(graph.opset_imports)
    made.functions, made.ir_version = dict(graph.functions), graph.ir_version
    made.name, made.doc_string, made._header = graph.name, graph.doc_string, graph._header
    given = dict.fromkeys(sorted(fed))
    nodes, names = _needed(store, outputs, given)
    names |= {t.name for t in store.inputs}
    part = made._store
    for name, tensor in store.tensors.items():
        if name not in names:
            continue
        if is_constant(tensor):
            part.add_constant(name, weights_of(tensor))
        elif name in given:
            part.add_variable(
                name, tensor.dtype, None if tensor.shape is None else (None,) * len(tensor.shape)
            )
        else:
            part.add_variable(name, tensor.dtype, tensor.shape, tensor.info)
    for node in nodes:
        part.nodes[node.name] = _twin(node, part, given)
        part.captured.update(node.captured)
    part.body_names = set(store.body_names)
    part.inputs = [part.tensors[t.name] for t in store.inputs] + [part.tensors[name] for name in given]
    part.outputs = [part.tensors[name] for name in outputs]
    return made


def _needed(
    store: Store, outputs: Sequence[str], given: Collection[str]
) -> tuple[list[StoredNode], set[str]]:
    """Nodes in execution order, and the names of the tensors that they read or fill."""
    names, nodes = {*outputs, *given}, list[StoredNode]()
    for node in reversed(store.order()):
        if any(t.name in names and t.name not in given for t in node.outputs if not t.is_empty()):
            nodes.append(node)
            names.update(t.name for t in (*node.inputs, *node.outputs) if not t.is_empty())
            names.update(node.captured)
    return nodes[::-1], names


def _twin(node: StoredNode, part: Store, given: Collection[str]) -> StoredNode:
    def of(tensor: Tensor) -> Tensor:
        return SurgeonVariable.empty() if tensor.is_empty() else part.tensors[tensor.name]

    def filled(tensor: Tensor) -> Tensor:
        if tensor.name in given and not tensor.is_empty():  # beside another output that is needed
            return part.add_variable(part.fresh(f"{tensor.name}/again"), tensor.dtype, tensor.shape)
        return of(tensor)

    inputs, outputs = [of(t) for t in node.inputs], [filled(t) for t in node.outputs]
    twin = StoredNode(node.op, node.name, node.domain, node.attrs.copy(), inputs, outputs)
    twin.metadata, twin.doc_string = dict(node.metadata), node.doc_string
    twin.overload, twin.captured = node.overload, node.captured
    return twin
