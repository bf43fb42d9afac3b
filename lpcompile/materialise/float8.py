"""Layers that compute in FP8, in the form for CPUs: float32 tensors of E4M3 numbers around float operators.

Scales are powers of two, so a product of such floats is the product of the FP8 numbers times the scales, exactly; sums
are float32, as in the matrix units. [notes E5]
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lpcompile.ir import float8
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.unpacking import add_function
from lpcompile.ir.value import Value
from lpcompile.materialise.names import stem
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.eighth_image import CodeBlocks, EighthImage
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import TRANSPOSED_OPS, channel_axis

ROUNDED = "_float8"


class Float8Writer(Protocol):
    """Writes layers with weights of two precisions."""

    def write(self, node: Node, plan: LayerPlan) -> int:
        """Write one layer in place and give the bytes of its stored weights."""


class Float8Layers(ABC):
    """What both forms share: each input is rounded once for all its readers; the float operator stays."""

    def __init__(self, graph: LpGraph) -> None:
        self.graph = graph
        self._rounded: dict[str, Value] = {}

    def write(self, node: Node, plan: LayerPlan) -> int:
        """Write one layer in place and give the bytes of its stored weights."""
        weight, x, tensor = node.inputs[1], node.inputs[0], plan.tensor
        assert weight is not None
        assert tensor is not None
        if isinstance(tensor, DualPrecisionTensor):
            node.set_input(1, self._weights(node, tensor, weight.dims, plan))
        else:
            node.set_input(1, self._wide_weights(node, tensor, weight.dims, plan))
        if plan.kernel is Kernel.FLOAT8 and x is not None:
            if x.name not in self._rounded:
                self._rounded[x.name] = self._round(x, self.graph.plan.activations[x.name].scale)
            node.set_input(0, self._rounded[x.name])
        bias = planned_bias(node, plan)
        if plan.bias_correction is not None and bias is not None:
            node.set_input(2, self.graph.constant(f"{stem(node.name)}/bias_corrected", bias))
        return tensor.exact.nbytes if isinstance(tensor, EighthImage) else tensor.nbytes

    @abstractmethod
    def _weights(
        self, node: Node, tensor: DualPrecisionTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        """The weights of a layer as what its float operator reads."""

    @abstractmethod
    def _wide_weights(
        self, node: Node, tensor: QuantizedTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        """The same of weights that are E4M3 numbers times a power of two."""

    @abstractmethod
    def _round(self, x: Value, scale: float) -> Value:
        """An input rounded to `scale` times E4M3."""

    def _typed(self, node: Node, shape: tuple[int | str | None, ...] | None) -> Value:
        """The output of a new node, float32."""
        value = node.outputs[0]
        assert value is not None
        self.graph.set_type(value, np.dtype(np.float32), shape)
        return value


def row_scales(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """(C_out, 1) the powers of two of weights of 8 bits."""
    assert not isinstance(tensor.scales, QuantizedTensor)
    return tensor.scales.reshape(-1, 1)


class Float8Calls(Float8Layers):
    """Calls of RoundFloat8 and DualPrecisionWeights."""

    def _weights(
        self, node: Node, tensor: DualPrecisionTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        graph, axis = self.graph, channel_axis(node.op)
        blocks = isinstance(tensor, CodeBlocks)
        function = float8.dual_precision_weights(graph.opset, len(shape), axis, blocks=blocks)
        add_function(graph, float8.round_float8(graph.opset))
        add_function(graph, function)
        packed = np.frombuffer(tensor.packed(), np.uint8)
        roles = {
            "codes": packed.reshape(len(tensor.codes), -1) if tensor.shape[1] % 2 == 0 else packed,
            "group_scale": tensor.group_scales.astype(ml_dtypes.bfloat16),
            "first_scale": np.array(tensor.first_scale, ml_dtypes.bfloat16),
        }
        group = [int(plan.weight.granularity.removeprefix("group"))]
        return self._expanded(node, shape, plan, tensor, function.name, roles, group_size=group)

    def _wide_weights(
        self, node: Node, tensor: QuantizedTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        graph = self.graph
        function = float8.float8_weights(graph.opset, len(shape), channel_axis(node.op))
        add_function(graph, function)
        roles = {"codes": tensor.codes, "first_scale": row_scales(tensor).astype(ml_dtypes.bfloat16)}
        return self._expanded(node, shape, plan, tensor, function.name, roles)

    def _expanded(
        self,
        node: Node,
        shape: tuple[int, ...],
        plan: LayerPlan,
        tensor: QuantizedTensor,
        function: str,
        roles: Mapping[str, NDArray[Any]],
        **further: list[int],
    ) -> Value:
        """What a function makes of the stored arrays of a layer's weights."""
        graph = self.graph
        call = graph.add_node(
            function,
            [graph.constant(f"{stem(node.name)}/weight_{role}", array) for role, array in roles.items()],
            [graph.fresh(f"{stem(node.name)}/weight_dequantized")],
            name=f"{node.name}/weight",
            attrs={
                "format": plan.weight.format,
                "granularity": plan.weight.granularity,
                "weight_shape": list(tensor.shape if node.op in TRANSPOSED_OPS else shape),
                **further,
            },
            domain=DOMAIN,
        )
        return self._typed(call, shape)

    def _round(self, x: Value, scale: float) -> Value:
        add_function(self.graph, float8.round_float8(self.graph.opset))
        unit = self.graph.constant(f"{stem(x.name)}_scale", np.array(scale, np.float32))
        call = self.graph.add_node(
            float8.ROUND,
            [x, unit],
            [self.graph.fresh(x.name + ROUNDED)],
            name=f"{x.name}/round",
            domain=DOMAIN,
        )
        return self._typed(call, x.shape)
