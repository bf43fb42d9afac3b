"""Account of a plan: integers at their widths, floats at theirs, and what changes between them.

A requantisation is counted once, with the node that it is fused with; an activation that only clamps is its clip. What
a node on integers does follows `materialise`: codes where a layer or a neighbour reads codes, floats elsewhere.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import prod

from lpcompile.accounts import functions as f
from lpcompile.accounts.elementwise import dequantise, first, quantise
from lpcompile.accounts.entries import ACTIVATION, NORM, OTHER, POOL, RESIDUAL, SCALE, Account, Entry
from lpcompile.accounts.graphs import FloatNodes, Item, counted, working_nodes
from lpcompile.accounts.nodes import CODE_BYTES, RULES, VIEWS, layer_entry
from lpcompile.accounts.sizes import dims_of, elements, nbytes
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.arithmetic import ACCUMULATOR_BITS, Kind, Operation
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.assignment.layer_operations import layer_operations
from lpcompile.assignment.planned_format import activation_bits, held_format
from lpcompile.assignment.requantisation import Requantisation, requantisation_of
from lpcompile.ir.cones import table_cones
from lpcompile.ir.forms import Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import bounds, data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.functions import Unit, units
from lpcompile.materialise.movement import code_bounds
from lpcompile.plan import STATIC, Kernel

LOOKED_UP = ("LeakyRelu", "Sigmoid")  # QLinearLeakyRelu and QLinearSigmoid are tables in ONNX Runtime, too


def planned_account(graph: LpGraph, *, dyadic: bool = False, tables: bool = False) -> Account:
    """What a call of the graph costs as its plan says; a symbolic batch is 1 (see `sizes.settled`).

    Args:
        graph: float, with shapes and its plan. Layers without codes stay float.
        dyadic: whether the target requantises so (`Rules.dyadic`).
        tables: whether functions of one tensor are tables (`Rules.tables`).
    """
    return _Planned(graph, dyadic=dyadic, tables=tables).account()


class _Planned:
    def __init__(self, graph: LpGraph, *, dyadic: bool, tables: bool) -> None:
        self.graph, self.plan, self.dyadic, self.tables = graph, graph.plan, dyadic, tables
        cones = table_cones(graph, held=self.plan.activations.keys()) if tables else {}
        work = units(graph, cones)
        self.units: dict[str, Unit] = {u.node.name: u for u in work}
        self.absorbed = {n.name for u in work for n in (u.clamp, u.bias) if n is not None}
        self.floats = FloatNodes(graph)
        self.filled = {v.name for u in work if self._gives_codes(u) for v in self._outputs(u)}

    def account(self) -> Account:
        return counted(self._items())

    def _items(self) -> Iterator[Item]:
        """Nodes in execution order, each tensor that changes its kind before its first reader or after its maker."""
        nodes = working_nodes(self.graph, self._reads)
        readers = Counter(v.name for n in nodes for v in self._codes_read(n))
        changed: set[str] = set()
        for node in nodes:
            for value in self._codes_read(node):
                if value.name not in self.filled | changed:
                    changed.add(value.name)
                    yield Item(f"{value.name}/quantize", "QuantizeLinear", partial(_quantised, value))
            if node.name in self.absorbed:
                continue
            layer = self.plan.layers.get(node.name)
            if layer is not None and layer.kernel in (Kernel.DYNAMIC, Kernel.NBITS):
                yield Item(
                    f"{node.name}/quantize", "QuantizeLinear", partial(_at_run_time, node, layer.kernel)
                )
            yield Item(node.name, node.op, partial(self._entry, node))
            unit = self.units.get(node.name)
            for value in self._outputs(unit) if unit is not None else ():
                if value.name in self.filled and self._read_as_floats(value, readers[value.name]):
                    count = partial(_dequantised, value, self._bits(value))
                    yield Item(f"{value.name}/dequantize", "DequantizeLinear", count)

    # who reads and gives what

    def _gives_codes(self, unit: Unit) -> bool:
        layer = self.plan.layers.get(unit.node.name)
        return layer is None or layer.kernel is Kernel.INTEGER

    @staticmethod
    def _outputs(unit: Unit) -> list[Value]:
        alone = unit.clamp is None and unit.bias is None
        return [v for v in (unit.node.outputs if alone else [unit.output]) if v is not None]

    def _reads(self, node: Node) -> list[Value]:
        unit = self.units.get(node.name)
        if unit is not None and unit.cone is not None:
            return [unit.cone.source]
        return [v for v in node.inputs if v is not None]

    def _codes_read(self, node: Node) -> list[Value]:
        """Planned tensors that a node takes as integers."""
        unit, layer = self.units.get(node.name), self.plan.layers.get(node.name)
        if unit is None:
            return []
        if layer is not None:
            x = node.inputs[0]
            return [x] if layer.kernel in STATIC and x is not None else []
        return [unit.cone.source] if unit.cone is not None else data_inputs(node)

    def _read_as_floats(self, value: Value, as_codes: int) -> bool:
        absorbed = sum(n.name in self.absorbed for n in value.consumers)
        return value.is_output or value.used_in_subgraph or len(value.consumers) > as_codes + absorbed

    def _bits(self, value: Value) -> int:
        plan = self.plan.activations.get(value.name)
        return 8 if plan is None else activation_bits(plan.format)

    # what nodes cost

    def _entry(self, node: Node) -> Entry | Account:
        unit = self.units.get(node.name)
        if unit is None:
            return self.floats.of(node)
        return self._layer(node) if node.name in self.floats.layers else self._on_codes(unit)

    def _requantisation(self, node: Node) -> Requantisation:
        return requantisation_of(self.plan, node.name, dyadic=self.dyadic)

    def _layer(self, node: Node) -> Entry:
        facts, held = layer_facts(node), held_format(self.graph, node)
        by = self._requantisation(node)
        s = Spending()
        s.merge(layer_operations(facts, held, by))
        if held.kernel is Kernel.INTEGER:
            _clip(s, facts.output_elements, by)
        return layer_entry(node, facts, held, s.work)

    def _on_codes(self, unit: Unit) -> Entry:
        """A node without weights that takes codes."""
        node, form = unit.node, Form.TABLE if unit.cone is not None else form_of(unit.node)
        by, reads = self._requantisation(node), self._codes_read(node)
        bits = max((self._bits(v) for v in reads), default=8)
        s = Spending(bits, floats=False)
        y = unit.output if unit.output is not None else first(node)
        outputs = elements(y)
        if form is Form.MOVE:
            self._move(s, node, reads, by)
        elif form is Form.CLAMP:
            self._clamp(s, node, outputs)
        elif form is Form.SUM:
            s.add(SCALE, by.multiply(bits), 2 * outputs)
            s.add(RESIDUAL, by.add, 2 * outputs)
            _finish(s, by, outputs)
        elif form is Form.PRODUCT:
            s.spend(s.role(OTHER), f.MULTIPLY, outputs)
            _requantise(s, SCALE, by, outputs, 2 * bits)
        elif form is Form.NORM:
            _requantise(s, NORM, by, outputs, bits)
        elif form in (Form.POOL, Form.GLOBAL_POOL):
            kernel = prod(node.attrs["kernel_shape"]) if form is Form.POOL else prod(dims_of(reads[0])[2:])
            add = Operation(Kind.ADD, ACCUMULATOR_BITS, ACCUMULATOR_BITS)
            s.add(POOL, add, outputs * (int(kernel) - 1))
            _requantise(s, SCALE, by, outputs)
        elif self.tables or node.op in LOOKED_UP:
            s.spend(ACTIVATION, f.FREE, outputs)  # looked up
        else:
            s = self._in_floats(node, reads, outputs)
        moved = 0 if node.op in VIEWS else CODE_BYTES * (sum(map(elements, reads)) + outputs)
        return Entry(node.name, node.op, s.work, s.ace, moved)

    def _in_floats(self, node: Node, reads: list[Value], outputs: int) -> Spending:
        """An operator that the runtime has no integers for: it computes floats between codes."""
        s = Spending()
        for value in reads:
            dequantise(s, elements(value), self._bits(value))
        RULES[node.op](node, s)
        quantise(s, outputs)
        return s

    def _move(self, s: Spending, node: Node, reads: list[Value], by: Requantisation) -> None:
        """Codes of another scale than the result's are scaled on the way, or looked up."""
        y = first(node)
        target = None if y is None else self.plan.activations.get(y.name)
        for value in reads:
            plan = self.plan.activations[value.name]
            alike = target is None or (plan.scale, plan.zero_point) == (target.scale, target.zero_point)
            if not alike and self.tables:
                s.spend(SCALE, f.FREE, elements(value))
            elif not alike:
                _requantise(s, SCALE, by, elements(value), self._bits(value))
        if node.op in RULES:
            RULES[node.op](node, s)

    def _clamp(self, s: Spending, node: Node, outputs: int) -> None:
        """Only bounds inside the range of the tensor compare."""
        y, limits = first(node), bounds(node)
        plan = None if y is None else self.plan.activations.get(y.name)
        if plan is None or limits is None:
            s.spend(OTHER, f.COMPARE, 2 * outputs)
            return
        low, high = code_bounds(limits, plan)
        s.spend(OTHER, f.COMPARE, ((low > 0) + (high < plan.code_max)) * outputs)


def _requantise(s: Spending, name: str, by: Requantisation, count: int, bits: int = ACCUMULATOR_BITS) -> None:
    """Scale, offset, shift and clip of so many numbers."""
    s.add(name, by.multiply(bits), count)
    s.add(name, by.add, count)
    _finish(s, by, count)


def _finish(s: Spending, by: Requantisation, count: int) -> None:
    if by.shift is not None:
        s.add(SCALE, by.shift, count)
    _clip(s, count, by)


def _clip(s: Spending, count: int, by: Requantisation) -> None:
    compare = Operation(Kind.COMPARE, ACCUMULATOR_BITS, ACCUMULATOR_BITS, floats=by.floats)
    s.add(SCALE, compare, 2 * count)


def _quantised(value: Value) -> Entry:
    s, count = Spending(), elements(value)
    quantise(s, count)
    return Entry(f"{value.name}/quantize", "QuantizeLinear", s.work, 0.0, nbytes(value) + CODE_BYTES * count)


def _dequantised(value: Value, bits: int) -> Entry:
    s, count = Spending(), elements(value)
    dequantise(s, count, bits)
    return Entry(
        f"{value.name}/dequantize", "DequantizeLinear", s.work, 0.0, nbytes(value) + CODE_BYTES * count
    )


def _at_run_time(node: Node, kernel: Kernel) -> Entry:
    """A range that is measured: smallest and largest number, or the largest of each block of 32."""
    x = node.inputs[0]
    s, count = Spending(), elements(x)
    if kernel is Kernel.DYNAMIC:
        quantise(s, count, measured=True)
    else:
        s.spend(SCALE, f.MULTIPLY + f.ADD + f.COMPARE + f.FREE, count)
    return Entry(f"{node.name}/quantize", "QuantizeLinear", s.work, 0.0, nbytes(x) + CODE_BYTES * count)
