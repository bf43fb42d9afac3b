"""Which tensors of a planned graph are codes, and who reads them as such: what `materialise` does, without doing it."""

from lpcompile.accounts.graphs import working_nodes
from lpcompile.accounts.sizes import code_bytes, elements
from lpcompile.assignment.planned_format import activation_bits
from lpcompile.ir.cones import table_cones
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.functions import Unit, units
from lpcompile.plan import STATIC, Kernel


class CodeFlow:
    """Codes of one graph under its plan.

    Attributes:
        graph: the float graph; its plan names no layer without codes.
        units: integer work by the name of its node.
        nodes: those that compute something, clamps and biases that others take in left out.
        filled: tensors that come as codes from what makes them.
        as_floats: tensors that somebody reads as floats.
    """

    def __init__(self, graph: LpGraph, *, tables: bool) -> None:
        bare = {n for n, p in graph.plan.layers.items() if p.kernel is not Kernel.FLOAT and p.tensor is None}
        if bare:
            graph = graph.copy()
            graph.plan = graph.plan.without(bare, "its weights are not rounded")
        self.graph, self.plan = graph, graph.plan
        cones = table_cones(graph, held=self.plan.activations.keys()) if tables else {}
        work = units(graph, cones)
        self.units: dict[str, Unit] = {u.node.name: u for u in work}
        absorbed = {n.name for u in work for n in (u.clamp, u.bias) if n is not None}
        self.nodes = [n for n in working_nodes(graph, self._reads) if n.name not in absorbed]
        self.filled = {v.name for u in work if self._gives_codes(u) for v in self.outputs(u)}
        self.as_floats = {
            v.name
            for n in self.nodes
            for v in self._reads(n)
            if v.name not in {c.name for c in self.codes_read(n)}
        }

    def outputs(self, unit: Unit) -> list[Value]:
        """What a piece of integer work gives, behind what it takes in."""
        alone = unit.clamp is None and unit.bias is None
        return [v for v in (unit.node.outputs if alone else [unit.output]) if v is not None]

    def codes_read(self, node: Node) -> list[Value]:
        """Tensors that a node takes as integers."""
        unit, layer = self.units.get(node.name), self.plan.layers.get(node.name)
        if unit is None:
            return []
        if layer is not None:
            x = node.inputs[0]
            return [x] if layer.kernel in STATIC and x is not None else []
        return [unit.cone.source] if unit.cone is not None else data_inputs(node)

    def dequantised(self, value: Value) -> bool:
        """Whether floats are made of the codes of a tensor."""
        read = value.name in self.as_floats or value.is_output or value.used_in_subgraph
        return value.name in self.filled and read

    def bits(self, value: Value) -> int:
        """Width of the codes of a tensor."""
        plan = self.plan.activations.get(value.name)
        return 8 if plan is None else activation_bits(plan.format)

    def code_bytes(self, value: Value) -> int:
        """Bytes of the codes of a tensor."""
        return elements(value) * code_bytes(self.bits(value))

    def _gives_codes(self, unit: Unit) -> bool:
        layer = self.plan.layers.get(unit.node.name)
        return layer is None or layer.kernel is Kernel.INTEGER

    def _reads(self, node: Node) -> list[Value]:
        unit = self.units.get(node.name)
        if unit is not None and unit.cone is not None:
            return [unit.cone.source]
        return [v for v in node.inputs if v is not None]
