"""Work without weights of a reference graph: sums, products, pools, norms and tables on codes."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto

from lpcompile.ir import dyadic_elementwise as bodies
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.forms import Form
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.pool_windows import pool_windows
from lpcompile.ir.unary import Real, code_table, unary_function
from lpcompile.ir.value import Value
from lpcompile.materialise.dyadic_layers import call, codes_of, limits_of, requant_constants
from lpcompile.materialise.functions import Unit
from lpcompile.materialise.held import norm_line, product_scale, sum_scales
from lpcompile.materialise.movement import write_movement
from lpcompile.materialise.names import stem
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import TARGETS_OWN, ActivationPlan
from lpcompile.quant.dyadic import Requant, affine_requant, sum_requant
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.quant.multipliers import integer_bits

TOLD = {"lpcompile.kernel": "integer"}


class ElementwiseWriter:
    """Writes nodes without weights of one reference graph, and remembers their integers."""

    def __init__(self, graph: LpGraph, tensors: IntegerTensors, numbers: DyadicNumbers) -> None:
        self.graph, self.tensors, self.numbers = graph, tensors, numbers

    def write(self, unit: Unit, form: Form) -> None:
        """Write one node of a form that computes, and the clamp after it that it absorbs."""
        if form in (Form.SUM, Form.PRODUCT):
            self._two(unit, form)
        elif form is Form.TABLE:
            self._table(unit)
        elif form is Form.NORM:
            self._norm(unit)
        else:
            self._pool(unit, form)

    def write_move(self, node: Node) -> None:
        """Write a node that moves codes; operands in another scale than its output go through a table first."""
        y = node.outputs[0]
        assert y is not None

        def codes_of(i: int, value: Value) -> Value:
            codes = self.tensors.codes(value)
            if self.alike(value, y):
                return codes
            table = self._codes_through(lambda x: x, self._plan(value), self._plan(y))
            codes = self._lookup(node, codes, table, self.graph.fresh(f"{codes.name}/requantized"), i)
            self.graph.set_type(codes, np.dtype(np.uint8), value.shape)
            return codes

        write_movement(self.graph, self.tensors, node, codes_of)

    def alike(self, x: Value, y: Value) -> bool:
        """Whether codes of `x` are codes of `y`."""
        a, b = self._plan(x), self._plan(y)
        return (a.scale, a.zero_point) == (b.scale, b.zero_point) and a.code_max <= b.code_max

    def _plan(self, value: Value) -> ActivationPlan:
        return self.tensors.plan.activations[value.name]

    def _output(self, unit: Unit) -> tuple[Value, ActivationPlan]:
        assert unit.output is not None
        return unit.output, self._plan(unit.output)

    def _codes_through(self, f: Real, x: ActivationPlan, y: ActivationPlan) -> NDArray[np.uint8]:
        return code_table(f, (x.scale, x.zero_point), (y.scale, y.zero_point), y.code_max)

    def _lookup(
        self, node: Node, codes: Value, table: NDArray[np.uint8], output: str, operand: int | None = None
    ) -> Value:
        name = node.name if operand is None else f"{node.name}/requantize{operand}"
        constant = self.graph.constant(f"{stem(name)}/table", table)
        function = bodies.lookup(self.graph.opset)
        found = call(self.graph, function, node, [codes, constant], output, {}, TOLD, name)
        made = found.producer
        assert made is not None
        self.numbers.luts[made.name] = table
        self.numbers.input_zero_points[made.name] = (0,)
        return found

    def _table(self, unit: Unit) -> None:
        node, (y, y_plan) = unit.node, self._output(unit)
        x, function = (
            (data_inputs(node)[0], unary_function(node))
            if unit.cone is None
            else (unit.cone.source, unit.cone.function)
        )
        assert function is not None
        table = self._codes_through(function, self._plan(x), y_plan)
        limits = limits_of(y_plan, unit.clamp)
        table = np.clip(table, limits.low, limits.high).astype(np.uint8)
        codes = self.tensors.codes(x)
        self.tensors.take_out(node)
        self.tensors.fill(y, self._lookup(node, codes, table, self.tensors.name_of_codes(y)))

    def _two(self, unit: Unit, form: Form) -> None:
        node, (_, y_plan) = unit.node, self._output(unit)
        a, b = data_inputs(node)
        plans = self._plan(a), self._plan(b)
        zeros = (plans[0].zero_point, plans[1].zero_point)
        limits = limits_of(y_plan, unit.clamp)
        held = self.tensors.plan.requants.get(node.name, TARGETS_OWN)
        attributes: dict[str, Any]
        if form is Form.SUM:
            sign = -1.0 if node.op == "Sub" else 1.0
            first, second = sum_scales(plans, y_plan, held)
            r = sum_requant((first, sign * second), zeros, limits)
            function = bodies.dyadic_add(self.graph.opset)
            attributes = {"m_a": int(r.m[0]), "m_b": int(r.m[1])}
        else:
            scale = np.array([product_scale(plans, y_plan, held)])
            most = np.array([codes_of(plans[0]).farthest * codes_of(plans[1]).farthest])
            r = affine_requant(scale, np.zeros(1), -most, most, limits, integer_bits(held.multiplier))
            function = bodies.dyadic_mul(self.graph.opset)
            attributes = {"m": int(r.m[0]), "a_zero_point": zeros[0], "b_zero_point": zeros[1]}
        attributes |= {"c": int(r.b[0]), "k": int(r.k[0])}
        self._finish(unit, function, [self.tensors.codes(a), self.tensors.codes(b)], attributes, r, zeros)

    def _norm(self, unit: Unit) -> None:
        node, (_, y_plan) = unit.node, self._output(unit)
        norm, (x,) = channel_norm(node), data_inputs(node)
        assert norm is not None
        x_plan = self._plan(x)
        held = self.tensors.plan.requants.get(node.name, TARGETS_OWN)
        scale, shift = norm_line(norm, x_plan, y_plan, held)
        least, most = np.zeros(len(scale), np.int64), np.full(len(scale), x_plan.code_max)
        bits = integer_bits(held.multiplier)
        r = affine_requant(scale, shift, least, most, limits_of(y_plan, unit.clamp), bits)
        function = bodies.quant_norm(self.graph.opset, norm.trailing)
        constants = requant_constants(self.graph, node.name, r, short=bool(held.multiplier))
        inputs = [self.tensors.codes(x), *constants]
        self._finish(unit, function, inputs, {}, r, (x_plan.zero_point,))

    def _pool(self, unit: Unit, form: Form) -> None:
        node, (_, y_plan) = unit.node, self._output(unit)
        (x,) = data_inputs(node)
        x_plan = self._plan(x)
        assert x.shape is not None
        sizes = [int(d) for d in x.shape[2:] if isinstance(d, int)]
        attributes: dict[str, Any] = {"x_zero_point": x_plan.zero_point}
        ratio = x_plan.scale / y_plan.scale
        limits = limits_of(y_plan, unit.clamp)
        if form is Form.GLOBAL_POOL:
            window = prod(sizes)
            function = bodies.dyadic_global_average_pool(self.graph.opset, len(sizes))
            counts: NDArray[np.int64] = np.array([window])
        else:
            windows = pool_windows(node, sizes)
            channels, window = int(x.shape[1] or 0), prod(windows.kernel)
            function = bodies.dyadic_average_pool(self.graph.opset)
            attributes |= {
                "kernel_shape": list(windows.kernel),
                "strides": list(windows.strides),
                "dilations": list(windows.dilations),
                "pads": [*windows.begin, *windows.end],
                "weight_shape": [channels, 1, *windows.kernel],
                "group": channels,
            }
            counts = windows.counts
        most = np.array([window * codes_of(x_plan).farthest])
        r = affine_requant(ratio / np.array([counts.min()]), np.zeros(1), -most, most, limits)
        if counts.size > 1:
            m = np.rint(ratio / counts * 2.0 ** int(r.k[0])).astype(np.int64)
            r = Requant(m[None, None], r.b, r.k, r.zero, r.low, r.high)
        inputs = [self.tensors.codes(x), *requant_constants(self.graph, node.name, r)]
        self._finish(unit, function, inputs, attributes, r, (x_plan.zero_point,))

    def _finish(
        self,
        unit: Unit,
        function: FunctionProto,
        inputs: Sequence[Value],
        attributes: dict[str, Any],
        r: Requant,
        zeros: tuple[int, ...],
    ) -> None:
        node, y = unit.node, unit.output
        assert y is not None
        self.numbers.requants[node.name] = r
        self.numbers.input_zero_points[node.name] = zeros
        attributes = {**attributes, "zero": r.zero, "low": r.low, "high": r.high}
        self.tensors.take_out(node)
        name = self.tensors.name_of_codes(y)
        self.tensors.fill(y, call(self.graph, function, node, inputs, name, attributes, TOLD))
