"""Layers that compute in FP8 with float8 tensors, for runtimes that have such arithmetic: `--emit fp8-qdq`, opset 21.

    weights   INT4 -> DequantizeLinear (group scales) -> Cast FLOAT8E4M3FN -> Cast FLOAT -> Mul (first scale)
              of 8 bits: FLOAT8E4M3FN -> Cast FLOAT -> Mul (first scale of the row)
    inputs    QuantizeLinear FLOAT8E4M3FN -> DequantizeLinear, one power of two a tensor

ONNX's products take no FP8 operands, so a backend finds them by this pattern. Scales are bfloat16 in the file. The
protected range makes a Clip before the first Cast needless. [notes 3 and E1]
"""

import ml_dtypes
import numpy as np
from onnx import TensorProto

from lpcompile.ir.movement import CLAMPS, bounds
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise.float8 import ROUNDED, Float8Layers, row_scales
from lpcompile.materialise.names import stem
from lpcompile.plan import LayerPlan
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import TRANSPOSED_OPS, channel_axis, from_rows

MOVED = ("Dropout", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


class Float8Chain(Float8Layers):
    """Standard operators on int4 and float8 tensors."""

    def _weights(
        self, node: Node, tensor: DualPrecisionTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        graph, origin = self.graph, stem(node.name)
        transposed = node.op in TRANSPOSED_OPS
        codes, scales = tensor.integers(), tensor.group_scales
        size = min(int(plan.weight.granularity.removeprefix("group")), tensor.shape[1])
        held = codes.T if transposed else codes
        q = graph.constant(f"{origin}/weight_quantized", np.ascontiguousarray(held).astype(ml_dtypes.int4))
        stored = np.ascontiguousarray(scales.T if transposed else scales).astype(ml_dtypes.bfloat16)
        s2 = self._cast(
            graph.constant(f"{origin}/weight_group_scale", stored), TensorProto.FLOAT, stored.shape
        )
        axis = 0 if transposed else 1
        real = graph.add_node(
            "DequantizeLinear", [q, s2], attrs={"axis": axis, "block_size": size}, name=f"{node.name}/weight"
        )
        value = self._typed(real, held.shape)
        eighth = graph.add_node("Cast", [value], attrs={"to": TensorProto.FLOAT8E4M3FN, "saturate": 1})
        narrow = self._typed(eighth, held.shape)
        graph.set_type(narrow, np.dtype(ml_dtypes.float8_e4m3fn), held.shape)
        wide = self._cast(narrow, TensorProto.FLOAT, held.shape)
        s1 = graph.constant(f"{origin}/weight_first_scale", np.array(tensor.first_scale, ml_dtypes.bfloat16))
        scaled = graph.add_node("Mul", [wide, self._cast(s1, TensorProto.FLOAT, ())])
        found = self._typed(scaled, held.shape)
        if held.shape == tuple(shape):
            return found
        dims = graph.constant(f"{origin}/weight_shape", np.array(shape, np.int64))
        return self._typed(graph.add_node("Reshape", [found, dims]), shape)

    def _wide_weights(
        self, node: Node, tensor: QuantizedTensor, shape: tuple[int, ...], plan: LayerPlan
    ) -> Value:
        origin, held = stem(node.name), from_rows(node.op, tensor.codes, shape)
        codes = np.ascontiguousarray(held).view(ml_dtypes.float8_e4m3fn)
        q = self.graph.constant(f"{origin}/weight_quantized", codes)
        spread = [1] * len(shape)
        spread[channel_axis(node.op)] = -1
        s1 = row_scales(tensor).reshape(spread).astype(ml_dtypes.bfloat16)
        unit = self._cast(
            self.graph.constant(f"{origin}/weight_first_scale", s1), TensorProto.FLOAT, s1.shape
        )
        wide = self._cast(q, TensorProto.FLOAT, shape)
        return self._typed(self.graph.add_node("Mul", [wide, unit], name=f"{node.name}/weight"), shape)

    def _round(self, x: Value, scale: float) -> Value:
        graph, origin = self.graph, stem(x.name)
        x = self._clamped_before(x)
        unit = graph.constant(f"{origin}_scale", np.array(scale, np.float32))
        zero = graph.constant(f"{origin}_zero_point", np.array(0, ml_dtypes.float8_e4m3fn))
        quantize = graph.add_node(
            "QuantizeLinear", [x, unit, zero], [graph.fresh(x.name + ROUNDED)], name=f"{x.name}/quantize"
        )
        codes = self._typed(quantize, x.shape)
        graph.set_type(codes, np.dtype(ml_dtypes.float8_e4m3fn), x.shape)
        return self._typed(
            graph.add_node("DequantizeLinear", [codes, unit, zero], name=f"{x.name}/dequantize"), x.shape
        )

    def _clamped_before(self, x: Value) -> Value:
        """The same tensor, from Max and Min where a Relu or a Clip gave it, perhaps with MOVED between.

        ONNX Runtime 1.32 takes such a node before QuantizeLinear for one on 8-bit integers, whatever the type: a Relu
        is left out, and numbers become negative; a Clip is an error when the model is loaded. It also moves
        QuantizeLinear through some operators, up to the clamp.
        """
        source = x
        while (node := source.producer) is not None and not node.domain:
            first = node.inputs[0]
            if node.op in CLAMPS and not source.used_in_subgraph:
                made = self._clamped(source, node)
                return made if source == x else x
            if node.op not in MOVED or first is None:
                break
            source = first
        return x

    def _clamped(self, x: Value, clamp: Node) -> Value:
        """The same tensor from Max and Min, where bounds are constants."""
        limits = bounds(clamp)
        if limits is None:
            return x
        graph, name, dtype, shape, told = self.graph, x.name, x.dtype, x.shape, dict(clamp.metadata)
        steps = [(op, end) for op, end in zip(("Max", "Min"), limits, strict=True) if np.isfinite(end)]
        if not steps:
            return x
        made, clamp_name = clamp.inputs[0], clamp.name
        graph.remove(clamp)
        for i, (op, end) in enumerate(steps):
            last = i == len(steps) - 1
            limit = graph.constant(f"{stem(name)}_{op.lower()}", np.array(end, np.float32))
            out = name if last else graph.fresh(f"{name}_held")
            node = graph.add_node(op, [made, limit], [out], name=clamp_name if last else None, metadata=told)
            made = self._typed(node, shape)
            graph.set_type(made, dtype, shape)
        assert made is not None
        return made

    def _cast(self, value: Value, to: int, shape: tuple[int, ...]) -> Value:
        return self._typed(self.graph.add_node("Cast", [value], attrs={"to": to}), shape)
