"""Layers with weights: one call of a `lpcompile` function for each, under the layer's own name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto

from lpcompile.errors import TargetError
from lpcompile.ir import block_matmul, domain, eighth_image
from lpcompile.ir.concat_path import CONCAT_INPUTS
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.separate_path import PATH_INPUTS
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.materialise.eighth_storage import store_eighths
from lpcompile.materialise.float8 import Float8Calls, Float8Writer
from lpcompile.materialise.held import HeldLine, held_line_of
from lpcompile.materialise.names import stem
from lpcompile.materialise.storage import StoredWeights, quantize_bias, shortest_bias, store_weights
from lpcompile.materialise.tensors import IntegerTensors
from lpcompile.plan import AT_RUN_TIME, CONCAT_IN, DUAL_SCALES, SEPARATE, ActivationPlan, Kernel, LayerPlan
from lpcompile.quant.concat_path import ConcatNumbers, concat_numbers
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.dyadic import Codes
from lpcompile.quant.rows import channel_axis
from lpcompile.quant.side_numbers import SideNumbers, side_numbers
from lpcompile.quant.side_path import SidePath

EXPANDED = (Kernel.FLOAT8, Kernel.WEIGHT_ONLY)  # of FP8 numbers
CONV_KEPT = ("strides", "pads", "dilations", "group", "kernel_shape", "auto_pad")


class LayerWriter:
    """Writes layers of one graph and remembers what their weights take."""

    def __init__(self, graph: LpGraph, tensors: IntegerTensors, float8: Float8Writer | None = None) -> None:
        self.graph, self.tensors = graph, tensors
        self.weight_bytes: dict[str, int] = {}
        self.float8 = float8 or Float8Calls(graph)

    def write(self, node: Node, plan: LayerPlan, output: Value | None) -> None:
        """Write one layer.

        Args:
            node: the float layer; it is taken out, unless only its weights change.
            plan: its decision.
            output: the planned tensor that an INTEGER layer fills (its own output, or that of a fused clamp).

        """
        if plan.weight.scale_format == DUAL_SCALES and plan.kernel in EXPANDED:
            self.weight_bytes[node.name] = self.float8.write(node, plan)
            node.metadata.update(metadata(plan))
            return
        weight = node.inputs[1]
        assert weight is not None
        line = held_line_of(node, plan, self.tensors.plan, output)
        multiplier = None if line is None else line.multiplier.astype(np.float32)
        path, main = separate_path(node, plan)
        if isinstance(main.tensor, DualPrecisionTensor):
            held = multiplier is not None
            stored = store_eighths(self.graph, node.name, node.op, main.tensor, weight.dims, held=held)
        else:
            stored = store_weights(self.graph, node.name, node.op, main, weight.dims, multiplier)
        self.weight_bytes[node.name] = stored.weight_bytes
        if plan.kernel is Kernel.WEIGHT_ONLY:
            self._expand(node, plan, stored)
        elif plan.kernel in AT_RUN_TIME:
            self._float_to_float(node, plan, stored, path)
        else:
            self._integer(node, plan, stored, output, line, path)

    def _integer(
        self,
        node: Node,
        plan: LayerPlan,
        stored: StoredWeights,
        output: Value | None,
        line: HeldLine | None,
        path: SidePath | None,
    ) -> None:
        """A layer on integers; where its line is held, the multipliers stand in place of the three scales."""
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        assert y is not None
        code_max = 255
        if output is not None:
            code_max = self.tensors.plan.activations[output.name].code_max
        x_scale, x_zero = self.tensors.parameters(x.name)
        if line is None:
            x_plan = self.tensors.plan.activations[x.name]
            bias = quantize_bias(planned_bias(node, plan), x_plan.scale, stored.scale)
        else:
            x_scale, bias = self.tensors.one(), quantize_bias(line.shift, 1.0, stored.scale)
        make, attributes = self._maker(
            node, stored, bias is not None, output is None, code_max, lowering_of_path(path)
        )
        inputs = [self.tensors.codes(x), x_scale, x_zero, *stored.values, *stored.shared]
        if output is not None:
            y_scale, y_zero = self.tensors.parameters(output.name)
            inputs += [y_scale if line is None else self.tensors.one(), y_zero]
        if bias is not None:
            inputs.append(self.graph.constant(f"{stem(node.name)}/bias_quantized", shortest_bias(bias)))
        if path is not None:
            inputs += self._path(node, path, self.tensors.plan.activations[x.name], stored)
        self.tensors.take_out(node)
        out = self.tensors.name_of_codes(output) if output is not None else self.tensors.float_name(y)
        call = self._call(make(), node, plan, inputs, out, {**stored.attributes, **attributes})
        if output is not None:
            self.tensors.fill(output, call)
        else:
            self.tensors.give_float(y, call)

    def _path(
        self, node: Node, path: SidePath, x: ActivationPlan | None, stored: StoredWeights
    ) -> list[Value]:
        found = path_values(self.graph, node, path, x, stored.scale)
        self.weight_bytes[node.name] += sum(v.nbytes for v in found)
        return found

    def _maker(
        self, node: Node, stored: StoredWeights, bias: bool, float_out: bool, code_max: int, path: str
    ) -> tuple[Callable[[], FunctionProto], Mapping[str, Any]]:
        opset, storage = self.graph.opset, stored.storage
        if node.op == "Conv":
            kept = {k: node.attrs[k] for k in CONV_KEPT if k in node.attrs}
            return lambda: domain.quant_conv(storage, opset, bias=bias, code_max=code_max), kept
        if node.op == "Gemm":
            return lambda: domain.quant_gemm(
                storage, opset, bias=bias, float_out=float_out, code_max=code_max, path=path
            ), {}
        return lambda: domain.quant_matmul(
            storage, opset, float_out=float_out, code_max=code_max, path=path
        ), {}

    def _float_to_float(
        self, node: Node, plan: LayerPlan, stored: StoredWeights, path: SidePath | None
    ) -> None:
        """A layer that rounds its input at run time; a bias is added behind it."""
        x, y = node.inputs[0], node.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if plan.bias_correction is not None and (corrected := planned_bias(node, plan)) is not None:
            bias = self.graph.constant(f"{stem(node.name)}/bias_corrected", corrected)
        assert y is not None
        attributes = stored.attributes
        if plan.kernel is Kernel.NBITS:
            if stored.storage.eighths:
                function = eighth_image.block_quant_matmul(self.graph.opset)
            else:
                function = block_matmul.block_quant_matmul(stored.storage, self.graph.opset)
            attributes = {**attributes, **block_matmul.attributes_of(stored.attributes["weight_shape"])}
            self.graph.opset_imports[RUNTIME_DOMAIN] = 1
        else:
            function = domain.dynamic_quant_matmul(
                stored.storage, self.graph.opset, path=lowering_of_path(path)
            )
        self.tensors.take_out(node)
        inputs = [x, *stored.values, *(() if plan.kernel is Kernel.NBITS else stored.shared)]
        if path is not None:
            inputs += self._path(node, path, None, stored)
        out = self.tensors.float_name(y) if bias is None else self.graph.fresh(f"{y.name}/product")
        call = self._call(function, node, plan, inputs, out, attributes)
        if bias is not None:
            self.graph.set_type(call, np.dtype(np.float32), y.shape)
            add = self.graph.add_node(
                "Add", [call, bias], [self.tensors.float_name(y)], name=f"{node.name}/bias"
            )
            call = self.tensors.filled(add)
        self.tensors.give_float(y, call)

    def _expand(self, node: Node, plan: LayerPlan, stored: StoredWeights) -> None:
        weight = node.inputs[1]
        assert weight is not None
        rank = len(weight.dims)
        function = domain.dequantize_weights(stored.storage, self.graph.opset, rank, channel_axis(node.op))
        out = self.graph.fresh(f"{stem(node.name)}/weight_dequantized")
        inputs = [*stored.values, *stored.shared]
        call = self._call(function, node, plan, inputs, out, stored.attributes, role="/weight")
        self.graph.set_type(call, np.dtype(np.float32), weight.dims)
        node.set_input(1, call)
        bias = planned_bias(node, plan)
        if plan.bias_correction is not None and bias is not None:
            node.set_input(2, self.graph.constant(f"{stem(node.name)}/bias_corrected", bias))
        node.metadata.update(metadata(plan))

    def _call(
        self,
        function: FunctionProto,
        node: Node,
        plan: LayerPlan,
        inputs: Sequence[Value | None],
        output: str,
        attributes: Mapping[str, Any],
        role: str = "",
    ) -> Value:
        add_function(self.graph, function)
        told = {"format": plan.weight.format, "granularity": plan.weight.granularity}
        attrs = {k: v for k, v in {**attributes, **told}.items() if k in function.attribute}
        call = self.graph.add_node(
            function.name,
            inputs,
            [output],
            name=node.name + role,
            attrs=attrs,
            domain=DOMAIN,
            metadata={**node.metadata, **metadata(plan)},
        )
        return self.tensors.filled(call)


def separate_path(node: Node, plan: LayerPlan) -> tuple[SidePath | None, LayerPlan]:
    """The side path of a layer that stays apart, and the plan of what it stands beside.

    Raises:
        TargetError: no kernel leaves sums that something could be added to, or reads inputs that something could stand
            beside.
    """
    path = None if plan.tensor is None else plan.tensor.side
    if path is None or not path.apart:
        return None, plan
    lowering = lowering_of_path(path)
    kernels = (Kernel.FLOAT_OUT, Kernel.DYNAMIC, *((Kernel.INTEGER,) if path.concat else ()))
    if plan.kernel not in kernels or node.op not in ("Gemm", "MatMul"):
        raise TargetError(
            f"a side path with side_lowering '{lowering}' needs a Gemm or MatMul that "
            + ("reads integers" if path.concat else "gives floats"),
            where=node.name,
            hint='set side_lowering = "merged"',
        )
    assert plan.tensor is not None
    return path, replace(plan, tensor=plan.tensor.main)


def lowering_of_path(path: SidePath | None) -> str:
    """Of a path that stays apart; empty without one."""
    if path is None:
        return ""
    return CONCAT_IN if path.concat else SEPARATE


def path_values(
    graph: LpGraph, node: Node, path: SidePath, x: ActivationPlan | None, scale: NDArray[np.float32]
) -> list[Value]:
    """The initialisers of a path that stays apart; without x its range is found at run time."""
    if path.concat:
        arrays = concat_arrays(concat_numbers(path))
    else:
        codes = None if x is None else Codes(x.zero_point, 0, x.code_max)
        arrays = path_arrays(side_numbers(path, codes, scale))
    return [graph.constant(f"{stem(node.name)}/{name}", array) for name, array in arrays.items()]


def path_arrays(numbers: SideNumbers) -> dict[str, NDArray[Any]]:
    """What a call holds of a separate path, by the names of its inputs; factors as MatMul wants them."""
    a, b = (np.ascontiguousarray(f.T) for f in (numbers.a, numbers.b))
    return dict(zip(PATH_INPUTS, (a, b, numbers.m, numbers.scale, numbers.high), strict=True))


def concat_arrays(numbers: ConcatNumbers) -> dict[str, NDArray[Any]]:
    """The same of a path that is concatenated to its layer."""
    a, b = (np.ascontiguousarray(f.T) for f in (numbers.a, numbers.b))
    return dict(zip(CONCAT_INPUTS, (a, b, numbers.m), strict=True))


def metadata(plan: LayerPlan) -> dict[str, str]:
    """What a reader of the file finds at a layer."""
    packed = {"lpcompile.accuracy_level": str(block_matmul.ACCURACY_LEVEL)}
    return {
        "lpcompile.kernel": plan.kernel.value,
        "lpcompile.format": plan.weight.format,
        "lpcompile.granularity": plan.weight.granularity,
        "lpcompile.scale_format": plan.weight.double_quantized or plan.weight.scale_format,
        "lpcompile.rounding": plan.weight.rounding,
        **(packed if plan.kernel is Kernel.NBITS else {}),
        **({"lpcompile.rank": str(plan.tensor.side.rank)} if plan.tensor and plan.tensor.side else {}),
    }
