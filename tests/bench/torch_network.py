"""An ONNX image network as a torch function, node by node, for timing its training step in torch's eager mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, numpy_helper

Step = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def training_step(model: ModelProto, output: str, weights: list[str], *, double: bool = False) -> Step:
    """(data, gradient at `output`) -> gradients of the weights, by one forward and one backward pass."""
    held = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    kind = torch.float64 if double else torch.float32
    held = {n: t.to(kind) if t.is_floating_point() else t for n, t in held.items()}
    for name in weights:
        held[name].requires_grad_(True)
    nodes = [
        (
            n.op_type,
            list(n.input),
            list(n.output),
            {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute},
        )
        for n in model.graph.node
    ]

    def run(x: np.ndarray, seed: np.ndarray) -> dict[str, np.ndarray]:
        values: dict[str, Any] = {**held, model.graph.input[0].name: torch.from_numpy(x).to(kind)}
        for op, inputs, outputs, attrs in nodes:
            values[outputs[0]] = _node(op, [values.get(i) for i in inputs], attrs, len(x))
            if outputs[0] == output:
                break
        for name in weights:
            held[name].grad = None
        values[output].backward(torch.from_numpy(seed).to(kind).reshape(values[output].shape))
        return {name: held[name].grad.numpy() for name in weights}

    return run


def _node(op: str, inputs: list[Any], attrs: dict[str, Any], batch: int) -> Any:
    x = inputs[0]
    match op:
        case "Conv":
            top, left, bottom, right = attrs.get("pads", [0, 0, 0, 0])
            if (top, left) != (bottom, right):
                x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
            bias = inputs[2] if len(inputs) > 2 else None
            return F.conv2d(
                x,
                inputs[1],
                bias,
                attrs.get("strides", 1),
                (top, left),
                attrs.get("dilations", 1),
                attrs.get("group", 1),
            )
        case "Clip":
            return F.hardtanh(x, float(inputs[1]), float(inputs[2]))
        case "Relu":
            return F.relu(x)
        case "Add":
            return x + inputs[1]
        case "GlobalAveragePool":
            return x.mean((2, 3), keepdim=True)
        case "Reshape":
            return x.reshape([batch, *(int(d) for d in inputs[1][1:])])
        case "Flatten":
            return x.reshape(batch, -1)
    raise ValueError(f"no torch form of {op} here")
