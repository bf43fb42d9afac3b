"""Layers of a reference graph: stored weights, and scale, bias and requantisation as three integers a channel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto

from lpcompile.errors import PassError, TargetError
from lpcompile.formats.base import resolve
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.dyadic import dyadic_layer
from lpcompile.ir.dyadic_side import SIDE_ARRAYS, SIDE_HIGH
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import bounds
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.materialise.functions import Unit
from lpcompile.materialise.layers import CONV_KEPT, metadata
from lpcompile.materialise.movement import code_bounds
from lpcompile.materialise.names import stem
from lpcompile.materialise.storage import image_rows, split_scales, store_weights
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import TARGETS_OWN, ActivationPlan, Kernel, LayerPlan
from lpcompile.quant.dyadic import Codes, Requant, accumulator_reach, affine_requant, digits_needed
from lpcompile.quant.dyadic_numbers import DyadicNumbers, LayerWeights
from lpcompile.quant.multipliers import held_line, integer_bits
from lpcompile.quant.rows import from_rows
from lpcompile.quant.side_integers import SideIntegers, side_integers
from lpcompile.quant.side_path import SidePath

KEPT = tuple(k for k in CONV_KEPT if k != "auto_pad")


class DyadicLayerWriter:
    """Writes layers of one reference graph, and remembers their integers and what their weights take."""

    def __init__(self, graph: LpGraph, tensors: IntegerTensors, numbers: DyadicNumbers) -> None:
        self.graph, self.tensors, self.numbers = graph, tensors, numbers
        self.weight_bytes: dict[str, int] = {}

    def write(self, unit: Unit, plan: LayerPlan) -> None:
        """Write one layer with integer arithmetic, and the clamp after it that it absorbs."""
        node = unit.node
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        shape = weight.dims
        path, plan = _apart(node, plan)
        stored = store_weights(self.graph, node.name, node.op, plan, shape)
        rows, scale = image_rows(plan)
        x_plan = self.tensors.plan.activations[x.name]
        side = None if path is None else side_integers(path, codes_of(x_plan))
        found = [
            digits_needed(part, codes_of(x_plan)) for part in (rows, *([] if side is None else [side.a]))
        ]
        digits = max(d or 0 for d in found)
        if None in found:
            raise PassError(f"{rows.shape[1]} products are too many to be exact in float32", where=node.name)
        self._remember(node, plan, rows, shape, x_plan)
        beside, attributes = [], {}
        if side is not None:
            self.numbers.sides[node.name] = side
            beside, attributes = side_values(self.graph, node, side, shape), {SIDE_HIGH: side.hidden.high}
        own = [*stored.own_integers, *(v for v in beside if not v.name.endswith("offset"))]
        self.weight_bytes[node.name] = sum(v.nbytes for v in own)
        step = np.float64(x_plan.scale) * np.broadcast_to(scale.reshape(-1), rows.shape[:1]).astype(
            np.float64
        )
        inputs = [self.tensors.codes(x), *stored.integer_values, *beside]
        attributes |= {**stored.attributes, "x_zero_point": x_plan.zero_point}
        if node.op == "Conv":
            attributes |= {k: node.attrs[k] for k in KEPT if k in node.attrs}
        function = dyadic_layer(
            node.op,
            stored.storage,
            self.graph.opset,
            digits=digits,
            trailing=len(shape) - 2,
            accumulate=plan.kernel is Kernel.FLOAT_OUT,
            side=side is not None,
        )
        if plan.kernel is Kernel.FLOAT_OUT:
            self._float_out(node, plan, function, inputs, attributes, step)
        else:
            self._requantise(unit, plan, function, inputs, attributes, step, rows)

    def _remember(
        self,
        node: Node,
        plan: LayerPlan,
        rows: NDArray[np.int8],
        shape: tuple[int, ...],
        x_plan: ActivationPlan,
    ) -> None:
        assert plan.tensor is not None
        multipliers, _ = split_scales(plan.tensor)
        size = 0 if multipliers is None else int(plan.weight.granularity.removeprefix("group"))
        self.numbers.weights[node.name] = LayerWeights(
            rows, shape, resolve(plan.weight.format).name, multipliers, size
        )
        self.numbers.input_zero_points[node.name] = (x_plan.zero_point,)

    def _requantise(
        self,
        unit: Unit,
        plan: LayerPlan,
        function: FunctionProto,
        inputs: list[Value],
        attributes: dict[str, Any],
        step: NDArray[np.float64],
        rows: NDArray[np.int8],
    ) -> None:
        node, y = unit.node, unit.output
        x = node.inputs[0]
        assert y is not None
        assert x is not None
        y_plan = self.tensors.plan.activations[y.name]
        bias = planned_bias(node, plan)
        shift = np.zeros(len(rows)) if bias is None else bias.astype(np.float64) / y_plan.scale
        if unit.bias is not None and (norm := channel_norm(unit.bias)) is not None:
            shift = shift + norm.shift / y_plan.scale
        reach = accumulator_reach(rows, codes_of(self.tensors.plan.activations[x.name]))
        if (side := self.numbers.sides.get(node.name)) is not None:
            reach = reach[0] - side.reach, reach[1] + side.reach
        held = self.tensors.plan.requants.get(node.name, TARGETS_OWN)
        centre = None if held.centre is None else held.centre / step
        scale, shift = held_line(step / y_plan.scale, shift, held.multiplier, centre)
        bits = integer_bits(held.multiplier)
        requant = affine_requant(scale, shift, *reach, limits_of(y_plan, unit.clamp), bits)
        self.numbers.requants[node.name] = requant
        constants = requant_constants(self.graph, node.name, requant, short=bool(held.multiplier))
        self.weight_bytes[node.name] += constants[0].nbytes + constants[2].nbytes  # m and k are its scales
        self.tensors.take_out(node)
        attributes |= {"zero": requant.zero, "low": requant.low, "high": requant.high}
        name = self.tensors.name_of_codes(y)
        self.tensors.fill(y, self._call(function, node, plan, [*inputs, *constants], name, attributes))

    def _float_out(
        self,
        node: Node,
        plan: LayerPlan,
        function: FunctionProto,
        inputs: list[Value],
        attributes: dict[str, Any],
        step: NDArray[np.float64],
    ) -> None:
        """The sums, and on the host their scale and bias."""
        y = node.outputs[0]
        assert y is not None
        shape, axis = y.shape, 1 if node.op == "Conv" else -1
        bias = planned_bias(node, plan)
        scale = self.graph.constant(f"{stem(node.name)}/scale", step.astype(np.float32))
        self.weight_bytes[node.name] += scale.nbytes
        self.tensors.take_out(node)
        sums = self._call(function, node, plan, inputs, self.graph.fresh(f"{y.name}_accumulated"), attributes)
        self.graph.set_type(sums, np.dtype(np.int32), shape)
        name = self.tensors.float_name(y) if bias is None else self.graph.fresh(f"{y.name}/scaled")
        scaled = self.tensors.filled(
            self.graph.add_node(
                "DequantizeLinear", [sums, scale], [name], name=f"{node.name}/scale", attrs={"axis": axis}
            )
        )
        self.graph.set_type(scaled, np.dtype(np.float32), shape)
        if bias is not None:
            column = bias.reshape(-1, *[1] * (len(shape or ()) - 2)) if node.op == "Conv" else bias
            shift = self.graph.constant(f"{stem(node.name)}/bias", column)
            add = self.graph.add_node(
                "Add", [scaled, shift], [self.tensors.float_name(y)], name=f"{node.name}/bias"
            )
            scaled = self.tensors.filled(add)
            self.graph.set_type(scaled, np.dtype(np.float32), shape)
        self.tensors.give_float(y, scaled)

    def _call(
        self,
        function: FunctionProto,
        node: Node,
        plan: LayerPlan,
        inputs: Sequence[Value],
        output: str,
        attributes: Mapping[str, Any],
    ) -> Value:
        told = {"format": plan.weight.format, "granularity": plan.weight.granularity}
        return call(self.graph, function, node, inputs, output, {**attributes, **told}, metadata(plan))


def call(
    graph: LpGraph,
    function: FunctionProto,
    node: Node,
    inputs: Sequence[Value],
    output: str,
    attributes: Mapping[str, Any],
    told: Mapping[str, str],
    name: str | None = None,
) -> Value:
    """Add a call of a function under the name of the float node, and give what it fills."""
    add_function(graph, function)
    attrs = {k: v for k, v in attributes.items() if k in function.attribute}
    made = graph.add_node(
        function.name,
        inputs,
        [output],
        name=name or node.name,
        attrs=attrs,
        domain=DOMAIN,
        metadata={**node.metadata, **told},
    )
    return IntegerTensors.filled(made)


def _apart(node: Node, plan: LayerPlan) -> tuple[SidePath | None, LayerPlan]:
    """The side path of a layer, and its plan without one.

    Raises:
        TargetError: the path is to be merged.
    """
    assert plan.tensor is not None
    path = plan.tensor.side
    if path is not None and not path.apart:
        raise TargetError(
            "integer reference graphs merge no side paths into weights",
            where=node.name,
            hint="use insert-lora{lowering=separate}, or --target ort",
        )
    if path is not None and path.concat:
        raise TargetError(
            "integer reference graphs have no paths of lowering concat-in",
            where=node.name,
            hint="use insert-lora{lowering=separate}, or --target ort",
        )
    return path, replace(plan, tensor=plan.tensor.main)


def side_values(graph: LpGraph, node: Node, side: SideIntegers, shape: tuple[int, ...]) -> list[Value]:
    """The initialisers of a side path, in the order of `SIDE_ARRAYS`; factors as the operator wants them."""
    a_shape = (len(side.a), *shape[1:]) if node.op == "Conv" else (shape[0], len(side.a))
    a = from_rows(node.op, side.a, a_shape)
    b = side.b.reshape(*side.b.shape, *[1] * (len(shape) - 2)) if node.op == "Conv" else side.b.T
    parts = [a, b, *requant_arrays(side.hidden), *requant_arrays(side.added)]
    names = zip(SIDE_ARRAYS, parts, strict=True)
    return [graph.constant(f"{stem(node.name)}/{role}", np.ascontiguousarray(v)) for role, v in names]


def codes_of(plan: ActivationPlan) -> Codes:
    """The integers of a planned tensor."""
    return Codes(plan.zero_point, 0, plan.code_max)


def limits_of(plan: ActivationPlan, clamp: Node | None) -> Codes:
    """The integers of a planned tensor behind a clamp that its producer absorbs."""
    limits = None if clamp is None else bounds(clamp)
    low, high = (0, plan.code_max) if limits is None else code_bounds(limits, plan)
    return Codes(plan.zero_point, low, high)


def requant_constants(
    graph: LpGraph, name: str, r: Requant, *, short: bool = False
) -> tuple[Value, Value, Value]:
    """M as int16, with `short` as uint8 where that holds it, b as int64, k as uint8."""
    arrays = zip(("multiplier", "offset", "shift"), requant_arrays(r, short=short), strict=True)
    m, b, k = (graph.constant(f"{stem(name)}/{role}", array) for role, array in arrays)
    return m, b, k


def requant_arrays(r: Requant, *, short: bool = False) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The same as arrays."""
    fits = short and r.m.size and int(r.m.min()) >= 0 and int(r.m.max()) <= np.iinfo(np.uint8).max
    return (
        r.m.astype(np.uint8 if fits else np.int16),
        r.b.astype(np.int64),
        r.k.astype(np.uint8),
    )
