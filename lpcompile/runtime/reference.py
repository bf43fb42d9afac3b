"""The numpy reference of every `lpcompile` operator: the oracle that compiled graphs are checked against."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool

from lpcompile.analysis.inputs import Feeds
from lpcompile.ir.function import DOMAIN
from lpcompile.runtime.reference_call import FLOAT8_VALUES, FLOAT8_WEIGHTS, FLOAT_TO_FLOAT, WIDE_WEIGHTS, Call
from lpcompile.runtime.reference_dyadic import dyadic_elementwise_outputs, dyadic_layer_outputs
from lpcompile.runtime.reference_elementwise import dequantize, elementwise_outputs, quantize
from lpcompile.runtime.reference_float8 import (
    dual_precision_weights,
    eighth_rows,
    float8_weights,
    rounded_float8,
)
from lpcompile.runtime.reference_layers import layer_outputs
from lpcompile.runtime.reference_weights import Rows, decode_rows, expanded

LayerOutputs = tuple[NDArray[Any], tuple[Any, ...], tuple[int, ...]]
WEIGHTS = ("DequantizeWeights", FLOAT8_WEIGHTS, WIDE_WEIGHTS)
_MAX_POOL: Any = MaxPool
_FIRST_IN_ONNX_REFERENCE = 19  # opset of its QuantizeLinear and DequantizeLinear


def run_node(node: NodeProto, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Outputs of one call of an `lpcompile` function.

    Args:
        node: the call; its function's body is not looked at.
        inputs: arrays in the order of `node.input`.

    Raises:
        ModelError: the domain has no such operator.
    """
    call = Call.of(node)
    if not call.is_layer and call.family not in WEIGHTS:
        return [whole_outputs(call, inputs)]
    if call.family in WEIGHTS:
        return [expanded_weights(call, inputs)]
    rows = layer_rows(call, inputs)
    values, at, shape = outputs_of(call)(call, rows, inputs)
    output = np.empty(shape, values.dtype)
    output[at] = values
    return [output]


def layer_rows(call: Call, inputs: Sequence[NDArray[Any]]) -> Rows:
    """The weights that a call of a layer multiplies with."""
    return (eighth_rows if call.eighths else decode_rows)(call, stored_weights(call, inputs))


def outputs_of(call: Call) -> Callable[..., LayerOutputs]:
    """What computes positions of a layer's output."""
    return dyadic_layer_outputs if call.is_dyadic else layer_outputs


def expanded_weights(call: Call, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The float32 weights of a call of WEIGHTS."""
    if call.family == FLOAT8_WEIGHTS:
        return dual_precision_weights(call, inputs)
    if call.family == WIDE_WEIGHTS:
        return float8_weights(call, inputs)
    return expanded(call, decode_rows(call, stored_weights(call, inputs)))


def whole_outputs(call: Call, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The output of a call without weights."""
    if call.family == FLOAT8_VALUES:
        return rounded_float8(*inputs)
    return (dyadic_elementwise_outputs if call.is_dyadic else elementwise_outputs)(call, inputs)


def stored_weights(call: Call, inputs: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """Those inputs of a layer's call that hold its weights."""
    first = {"DequantizeWeights": 0, **dict.fromkeys(FLOAT_TO_FLOAT, 1)}.get(
        call.family, 1 if call.is_dyadic else 3
    )
    return inputs[first : first + call.stored_inputs]


def evaluate(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> Feeds:
    """Outputs of a compiled model without ONNX Runtime: `onnx.reference` for standard operators.

    Args:
        model: standard operators and calls of `lpcompile` functions; it is copied.
        feeds: arrays by input name.

    Returns:
        Arrays by output name, in the order of the graph.
    """
    bare = ModelProto()
    bare.CopyFrom(model)
    kept = [f for f in bare.functions if f.domain != DOMAIN]
    del bare.functions[:]
    bare.functions.extend(kept)
    calls = {n.op_type for n in bare.graph.node if n.domain == DOMAIN}
    operators = [
        *(_operator(DOMAIN, name, _run_call) for name in sorted(calls)),
        _operator("", "MaxPool", _run_max_pool, _MAX_POOL),
    ]
    if next(o.version for o in bare.opset_import if not o.domain) < _FIRST_IN_ONNX_REFERENCE:
        operators += [
            _operator("", "QuantizeLinear", _run_quantize),
            _operator("", "DequantizeLinear", _run_dequantize),
        ]
    evaluator = ReferenceEvaluator(bare, new_ops=operators)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def _operator(
    domain: str, name: str, run: Callable[..., tuple[NDArray[Any], ...]], base: Any = OpRun
) -> type[OpRun]:
    return type(name, (base,), {"op_domain": domain, "_run": run})


def _run_max_pool(self: OpRun, x: NDArray[Any], **attributes: Any) -> tuple[NDArray[Any], ...]:
    """The pads of onnx's own are NaN, which no integer is; floats hold every 8-bit code."""
    if x.dtype.kind == "f":
        return tuple(_MAX_POOL._run(self, x, **attributes))
    found = _MAX_POOL._run(self, x.astype(np.float32), **attributes)
    return (found[0].astype(x.dtype), *found[1:])


def _run_call(self: OpRun, *inputs: NDArray[Any], **_attributes: Any) -> tuple[NDArray[Any], ...]:
    return tuple(run_node(self.onnx_node, inputs))


def _run_quantize(
    _self: OpRun, x: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], **_attributes: Any
) -> tuple[NDArray[Any], ...]:
    return (quantize(x, scale, zero_point, 255),)


def _run_dequantize(
    _self: OpRun,
    x: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any] | None = None,
    axis: int = 1,
    **_attributes: Any,
) -> tuple[NDArray[Any], ...]:
    if scale.size > 1:
        wide = [1] * x.ndim
        wide[axis] = -1
        scale = scale.reshape(wide)
    return (dequantize(x, scale, np.array(0) if zero_point is None else zero_point),)
