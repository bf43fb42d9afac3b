"""Where float meets integer: one uint8 tensor for each planned activation, Q and DQ at the edges."""

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.names import stem
from lpcompile.plan import QuantPlan

QUANTIZED = "_quantized"
ONE = "lpcompile/one"


class IntegerTensors:
    """The uint8 side of the planned activations while a plan is materialised."""

    def __init__(self, graph: LpGraph, plan: QuantPlan) -> None:
        self.graph, self.plan = graph, plan
        self._codes: dict[str, Value] = {}
        self._parameters: dict[str, tuple[Value, Value]] = {}

    def parameters(self, name: str) -> tuple[Value, Value]:
        """Scale and zero point of a planned tensor, 0-d (ONNX Runtime's QLinear kernels refuse shape [1])."""
        plan = self.plan.activations[name]
        if plan.tie_group not in self._parameters:
            scale = self.graph.constant(f"{stem(plan.tie_group)}_scale", np.array(plan.scale, np.float32))
            zero = self.graph.constant(
                f"{stem(plan.tie_group)}_zero_point", np.array(plan.zero_point, np.uint8)
            )
            self._parameters[plan.tie_group] = (scale, zero)
        return self._parameters[plan.tie_group]

    def one(self) -> Value:
        """The scale 1, for layers whose weights carry the whole multiplier."""
        if ONE not in self.graph:
            return self.graph.constant(ONE, np.array(1, np.float32))
        return self.graph.value(ONE)

    def codes(self, value: Value) -> Value:
        """The uint8 tensor of a planned activation; quantised here if no integer node has filled it."""
        if value.name not in self._codes:
            self.fill(value, self.quantize(value, value))
        return self._codes[value.name]

    def quantize(self, value: Value, floats: Value) -> Value:
        """Codes of `floats` under the plan of `value`."""
        scale, zero = self.parameters(value.name)
        inputs, name = [floats, scale, zero], f"{value.name}/quantize"
        codes = self.filled(self.graph.add_node("QuantizeLinear", inputs, [self._new(value)], name=name))
        plan = self.plan.activations[value.name]
        if plan.code_max == 255:
            return codes
        top = self.graph.constant(f"{stem(plan.tie_group)}_code_max", np.array(plan.code_max, np.uint8))
        return self.filled(
            self.graph.add_node("Min", [codes, top], [self._new(value)], name=f"{value.name}/hold")
        )

    def fill(self, value: Value, node_output: Value) -> None:
        """Say that an integer node fills the uint8 side of `value`."""
        self._type(node_output, value)
        self._codes[value.name] = node_output

    def name_of_codes(self, value: Value) -> str:
        """A name for the uint8 side of a tensor: `<name>_quantized`, as ONNX Runtime's own tools expect it."""
        return self._new(value)

    def take_out(self, node: Node) -> None:
        """Take a float node out; an output that a control-flow body reads is filled by a twin until it is filled again.

        Its name is free afterwards either way.
        """
        if any(v is not None and v.used_in_subgraph for v in node.outputs):
            self.graph.set_aside(node)
        else:
            self.graph.remove(node)

    def float_name(self, value: Value) -> str:
        """The name under which a new node may fill the float side of `value`: its own once its producer is out."""
        return value.name if value.producer is None else self.graph.fresh(value.name)

    def give_float(self, value: Value, filled: Value) -> None:
        """Let `filled` stand for `value` where that could not happen under its own name (bodies read it)."""
        if filled.name != value.name:
            producer = value.producer
            self.graph.replace_uses(value, filled)
            if producer is not None:
                self.graph.remove(producer)

    def dequantize(self, value: Value) -> None:
        """Where floats of an integer tensor are still read, give them under the old name."""
        if not (value.consumers or value.is_output or value.used_in_subgraph):
            return
        scale, zero = self.parameters(value.name)
        shape, dtype = value.shape, value.dtype or np.dtype(np.float32)
        inputs, name = [self._codes[value.name], scale, zero], f"{value.name}/dequantize"
        out = self.filled(
            self.graph.add_node("DequantizeLinear", inputs, [self.float_name(value)], name=name)
        )
        self.graph.set_type(out, dtype, shape)
        self.give_float(value, out)

    @staticmethod
    def filled(node: Node) -> Value:
        """The one output of a node."""
        value = node.outputs[0]
        assert value is not None
        return value

    def _new(self, value: Value) -> str:
        return self.graph.fresh(value.name + QUANTIZED)

    def _type(self, codes: Value, like: Value) -> None:
        self.graph.set_type(codes, np.dtype(np.uint8), like.shape)
