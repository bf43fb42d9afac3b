"""A ResNet-18-shaped graph with seeded weights and unfolded batch norms: compile time is measured on it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.bench.bench_table import scratch

CLASSES = 1000
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first block
BLOCKS = 2
OPSET = 17
SAMPLES = 16


class Writer:
    """Nodes and weights of the network, in order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_output"], name=name, **attrs))
        return f"{name}_output"

    def conv_bn(self, x: str, name: str, inputs: int, outputs: int, kernel: int, stride: int) -> str:
        """Conv without bias (He's initialisation), then a batch norm whose statistics fit roughly."""
        deviation = math.sqrt(2 / (inputs * kernel**2))
        w = self.rng.normal(0, deviation, (outputs, inputs, kernel, kernel))
        y = self.node(
            "Conv", [x, self.weight(f"{name}.weight", w)], name,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4,
        )  # fmt: skip
        scale, bias = self.rng.uniform(0.7, 1.3, outputs), self.rng.normal(0, 0.2, outputs)
        mean, var = self.rng.normal(0, 0.2, outputs), self.rng.uniform(0.7, 1.3, outputs)
        parts = {"scale": scale, "bias": bias, "mean": mean, "var": var}
        names = [self.weight(f"{name}.bn.{k}", v) for k, v in parts.items()]
        return self.node("BatchNormalization", [y, *names], f"{name}.bn")

    def block(self, x: str, name: str, inputs: int, outputs: int, stride: int) -> str:
        y = self.node("Relu", [self.conv_bn(x, f"{name}.conv1", inputs, outputs, 3, stride)], f"{name}.relu1")
        y = self.conv_bn(y, f"{name}.conv2", outputs, outputs, 3, 1)
        if stride != 1 or inputs != outputs:
            x = self.conv_bn(x, f"{name}.downsample", inputs, outputs, 1, stride)
        return self.node("Relu", [self.node("Add", [y, x], f"{name}.add")], f"{name}.relu2")


def resnet18(seed: int = 0, image: int = 224) -> ModelProto:
    """ResNet-18 as torchvision builds it: 11.7 M weights, 1.8 G multiply-accumulates at 224 x 224.

    Args:
        seed: of the weights.
        image: height and width of the input "image" (N, 3, image, image), a multiple of 32.

    Returns:
        The model; its output "logits" is (N, 1000).
    """
    w = Writer(seed)
    x = w.node("Relu", [w.conv_bn("image", "conv1", 3, 64, 7, 2)], "relu")
    x = w.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, (outputs, stride) in enumerate(STAGES, 1):
        for block in range(BLOCKS):
            x = w.block(x, f"layer{stage}.{block}", inputs, outputs, stride if block == 0 else 1)
            inputs = outputs
    x = w.node("Flatten", [w.node("GlobalAveragePool", [x], "avgpool")], "flatten")
    fc = w.weight("fc.weight", w.rng.normal(0, math.sqrt(1 / inputs), (CLASSES, inputs)))
    bias = w.weight("fc.bias", w.rng.normal(0, 0.1, CLASSES))
    w.nodes.append(helper.make_node("Gemm", [x, fc, bias], ["logits"], name="fc", transB=1))
    graph = helper.make_graph(
        w.nodes,
        "resnet18",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, image, image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        w.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def resnet18_files(side: int) -> tuple[Path, Path]:
    """The model and seeded samples as files, written once."""
    model, data = scratch() / f"resnet18-{side}.onnx", scratch() / f"resnet18-{side}.npz"
    if not data.exists():
        onnx.save(resnet18(0, side), model)
        np.savez(data, image=images(SAMPLES, side))
    return model, data


def images(count: int, side: int, seed: int = 0) -> NDArray[np.float32]:
    """Seeded noise, (count, 3, side, side)."""
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)
