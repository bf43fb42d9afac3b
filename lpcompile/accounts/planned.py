"""Account of a plan: integers at their widths, floats at theirs, and what changes between them.

A requantisation is counted once, with the node that it is fused with. Pairs of QuantizeLinear and DequantizeLinear that
vanish between two nodes on integers are not there.
"""

from collections.abc import Iterator
from functools import partial

from lpcompile.accounts import functions as f
from lpcompile.accounts.code_flow import CodeFlow
from lpcompile.accounts.elementwise import dequantise, quantise
from lpcompile.accounts.entries import Account, Entry
from lpcompile.accounts.graphs import FloatNodes, Item, counted
from lpcompile.accounts.nodes import layer_entry
from lpcompile.accounts.on_codes import clip, entry_on_codes
from lpcompile.accounts.recurrent import on_integers, rounded_states, runs_on_integers
from lpcompile.accounts.sizes import code_bytes, elements, nbytes
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.cost_classes import SCALE
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.layer_operations import layer_operations
from lpcompile.assignment.planned_format import held_format
from lpcompile.assignment.requantisation import FLOAT, Requantisation, requantisation_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.plan import AT_RUN_TIME, Kernel


def planned_account(graph: LpGraph, own: Requantisation = FLOAT, *, tables: bool = False) -> Account:
    """What a call of the graph costs as its plan says; a symbolic batch is 1 (see `sizes.settled`).

    Args:
        graph: float, with shapes and its plan. Layers without codes stay float.
        own: what integers are requantised by where the plan says nothing.
        tables: whether functions of one tensor are tables (`Rules.tables`).
    """
    return _Planned(graph, own, tables=tables).account()


class _Planned:
    def __init__(self, graph: LpGraph, own: Requantisation, *, tables: bool) -> None:
        self.flow, self.own, self.tables = CodeFlow(graph, tables=tables), own, tables
        self.floats = FloatNodes(self.flow.graph)

    def account(self) -> Account:
        return counted(self._items())

    def _items(self) -> Iterator[Item]:
        """Nodes in execution order, each tensor that changes its kind before its first reader or after its maker."""
        flow, changed = self.flow, set[str]()
        for node in flow.nodes:
            for value in flow.codes_read(node):
                if value.name not in flow.filled | changed:
                    changed.add(value.name)
                    yield Item(f"{value.name}/quantize", "QuantizeLinear", partial(self._quantised, value))
            layer = flow.plan.layers.get(node.name)
            if runs_on_integers(flow.plan, node):
                yield Item(f"{node.name}/quantize", "QuantizeLinear", partial(rounded_states, node))
            if layer is not None and layer.kernel in AT_RUN_TIME:
                count = partial(_at_run_time, node, layer.kernel)
                yield Item(f"{node.name}/quantize", "QuantizeLinear", count)
            yield Item(node.name, node.op, partial(self._entry, node))
            unit = flow.units.get(node.name)
            for value in flow.outputs(unit) if unit is not None else ():
                if flow.dequantised(value):
                    count = partial(self._dequantised, value)
                    yield Item(f"{value.name}/dequantize", "DequantizeLinear", count)

    def _entry(self, node: Node) -> Entry | Account:
        flow, unit = self.flow, self.flow.units.get(node.name)
        if unit is None:
            found = self.floats.of(node)
            if isinstance(found, Entry) and runs_on_integers(flow.plan, node):
                return on_integers(node, found)
            return found
        by = requantisation_of(flow.plan, node.name, self.own)
        if node.name in self.floats.layers:
            return self._layer(node, by)
        inside = node.name in self.floats.activation
        return entry_on_codes(flow, unit, by, tables=self.tables, in_activation=inside)

    def _layer(self, node: Node, by: Requantisation) -> Entry:
        flow, facts, held = self.flow, layer_facts(node), held_format(self.flow.graph, node)
        s = Spending()
        s.merge(layer_operations(facts, held, by))
        gives_codes = held.kernel is Kernel.INTEGER
        if gives_codes:
            clip(s, facts.output_elements, by)
        read = sum(map(flow.code_bytes, flow.codes_read(node))) or nbytes(node.inputs[0])
        written = flow.code_bytes if gives_codes else nbytes
        outputs = flow.outputs(flow.units[node.name])
        return layer_entry(node, facts, held, s.work, read + sum(map(written, outputs)))

    def _quantised(self, value: Value) -> Entry:
        s, moved = Spending(), nbytes(value) + self.flow.code_bytes(value)
        quantise(s, elements(value))
        return Entry(f"{value.name}/quantize", "QuantizeLinear", s.work, 0.0, moved)

    def _dequantised(self, value: Value) -> Entry:
        s, moved = Spending(), nbytes(value) + self.flow.code_bytes(value)
        dequantise(s, elements(value), self.flow.bits(value))
        return Entry(f"{value.name}/dequantize", "DequantizeLinear", s.work, 0.0, moved)


def _at_run_time(node: Node, kernel: Kernel) -> Entry:
    """A range that is measured: smallest and largest number, or the largest of each block of 32."""
    x = node.inputs[0]
    s, count = Spending(), elements(x)
    if kernel is Kernel.DYNAMIC:
        quantise(s, count, measured=True)
    else:
        s.spend(SCALE, f.MULTIPLY + f.ADD + f.COMPARE + f.FREE, count)
    return Entry(f"{node.name}/quantize", "QuantizeLinear", s.work, 0.0, nbytes(x) + code_bytes(8) * count)
