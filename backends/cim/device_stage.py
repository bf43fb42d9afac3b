"""A device stage as work: its nodes read one by one, its edges as ports. [cim-machine 2]."""

from collections.abc import Sequence
from dataclasses import dataclass

from lpcompile.backends.cim.fuse import fuse
from lpcompile.backends.cim.memory import Addresses
from lpcompile.backends.cim.program import Descriptor, Port
from lpcompile.backends.cim.reading import read_node
from lpcompile.backends.cim.stages import Stage
from lpcompile.backends.cim.tables import Tables
from lpcompile.backends.cim.values import StageValues, shape_of
from lpcompile.backends.cim.views import View
from lpcompile.backends.cim.work import Move, Work
from lpcompile.errors import CapacityError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.quant.dyadic_numbers import DyadicNumbers

COMPUTING = (
    "DyadicConv",
    "DyadicGemm",
    "DyadicMatMul",
    "DyadicAdd",
    "DyadicMul",
    "QuantNorm",
    "Lookup",
    "MaxPool",
)


@dataclass
class DeviceWork:
    """One device stage while it is lowered."""

    stage: Stage
    values: StageValues
    work: list[Work]
    inputs: list[tuple[Value, View]]
    outputs: list[tuple[Value, View]]


def read_stage(graph: LpGraph, numbers: DyadicNumbers, stage: Stage) -> DeviceWork:
    """What a device stage does, on views; elementwise work joined to the layers before it.

    Args:
        graph: the reference graph.
        numbers: its integers.
        stage: nodes that the machine does.
    """
    nodes = [graph.node(n) for n in stage.nodes]
    outputs = frozenset(stage.outputs)
    values = StageValues(_concat_parts(nodes, outputs), outputs)
    inputs = []
    for name in stage.inputs:
        value = graph.value(name)
        shape = shape_of(value)
        assert shape is not None
        order = _port_order(value, len(shape))
        view = values.room(shape, order, "u8" if str(value.dtype) == "uint8" else "i32", port=True)
        values.give(value, view, 255)
        inputs.append((value, view))
    for node in nodes:
        try:
            read_node(values, node, numbers)
        except ValueError as error:  # strides cannot say it
            raise CapacityError(str(error), where=node.name) from error
    found = []
    for name in stage.outputs:
        value, view = graph.value(name), values.held[name].view
        if view.buffer not in values.buffers.ports or name in values.into:
            room = values.room(view.shape, tuple(range(len(view.shape))), view.dtype, port=True)
            values.work.append(Move(_producer_name(value), view, room))
            view = room
        found.append((value, view))
    return DeviceWork(stage, values, fuse(values.work, values.buffers), inputs, found)


def port(tables: Tables, value: Value, view: View, at: Addresses) -> Port:
    """A tensor at the edge of a stage, once it has an address."""
    p = at.place(view)
    assert value.shape is not None
    batch = bool(value.shape) and not isinstance(value.shape[0], int)
    dims = tuple(zip(p.shape, p.strides, strict=True))[1 if batch else 0 :]
    number = tables.descriptors.add(Descriptor(p.space, p.dtype, p.base, dims))
    return Port(value.name, p.dtype, view.shape, number, batch)


def _concat_parts(nodes: Sequence[Node], ports: frozenset[str]) -> dict[str, tuple[Value, int, int]]:
    """Tensors that can be computed straight into the Concat that they go to: tensor -> (output, axis, first)."""
    made = {v.name: n for n in nodes for v in n.outputs if v is not None}
    found: dict[str, tuple[Value, int, int]] = {}
    for node in nodes:
        out = node.outputs[0]
        if node.op != "Concat" or node.domain or out is None:
            continue
        rank = len(out.shape or ())
        axis, first = int(node.attrs.get("axis", 0)) % rank, 0
        for value in node.inputs:
            assert value is not None
            shape = shape_of(value)
            assert shape is not None
            maker = made.get(value.name)
            computes = maker is not None and (
                maker.op.split("_")[0] in COMPUTING or (maker.op == "Concat" and not maker.domain)
            )
            if computes and value.name not in found and value.name not in ports:
                found[value.name] = (out, axis, first)
            first += shape[axis]
    return found


def _port_order(value: Value, rank: int) -> tuple[int, ...]:
    """Channels last in memory where windows read the tensor, else the graph's order."""
    windows = any(
        n.op.split("_")[0] in ("DyadicConv", "AccumulateConv", "DyadicAveragePool", "MaxPool")
        for n in value.consumers
    )
    return (0, *range(2, rank), 1) if windows and rank > 2 else tuple(range(rank))


def _producer_name(value: Value) -> str:
    node = value.producer
    return value.name if node is None else node.name
