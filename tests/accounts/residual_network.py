"""ResNet-50 with 16-bit zeros for weights: only its shapes count. [he2016, strides in the 3x3 convolutions]."""

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # channels, blocks, first stride


def resnet50() -> ModelProto:
    """At 224 with 1000 classes: nodes `convN`, `fc`; no norms."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def conv(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        name = f"conv{len(constants)}"
        weight = np.zeros((outputs, inputs, kernel, kernel), np.float16)
        constants.append(onnx.numpy_helper.from_array(weight, f"{name}/w"))
        pads = [kernel // 2] * 4
        node = helper.make_node("Conv", [x, f"{name}/w"], [name], name, strides=[stride] * 2, pads=pads)
        nodes.append(node)
        return name

    def then(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    x = then("Relu", conv("image", 3, 64, 7, 2))
    x = then("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for channels, blocks, first in STAGES:
        for block in range(blocks):
            stride = first if block == 0 else 1
            y = then("Relu", conv(x, width, channels, 1))
            y = then("Relu", conv(y, channels, channels, 3, stride))
            y = conv(y, channels, 4 * channels, 1)
            shortcut = conv(x, width, 4 * channels, 1, stride) if block == 0 else x
            x = then("Relu", then("Add", y, shortcut))
            width = 4 * channels
    x = then("Flatten", then("GlobalAveragePool", x))
    constants.append(onnx.numpy_helper.from_array(np.zeros((1000, width), np.float16), "fc/w"))
    nodes.append(helper.make_node("Gemm", [x, "fc/w"], ["logits"], "fc", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["batch", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", 1000])
    graph = helper.make_graph(nodes, "resnet50", [image], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
