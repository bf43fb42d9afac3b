"""MobileNetV1 at any width, and the widths and bits of the PikeLPN family, as ONNX graphs with random weights.

    stem conv 3x3 /2, 13 blocks of depthwise 3x3 and pointwise 1x1, global average, fully connected  [howard2017]

Every convolution is followed by a batch norm and an activation. For counting and for trying compilers: the weights are
seeded draws of no network that was ever trained.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

# input channels, output channels, stride of the depthwise convolution, at width 1
BLOCKS = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
          *((512, 512, 1),) * 5, (512, 1024, 2), (1024, 1024, 1))  # fmt: skip
ACTIVATIONS = ("relu", "prelu")
OPSET = 17


@dataclass(frozen=True)
class Member:
    """One network of the PikeLPN family: depthwise weights of 8 bits, pointwise ones powers of two of 4 bits.

    Attributes:
        width: of MobileNetV1.
        activation_bits: of all activations but the image.
    """

    width: float
    activation_bits: int


PIKELPN = {  # as a registry of energies lists them
    "pikelpn-1x": Member(1.0, 8),
    "pikelpn-2x": Member(1.0, 16),
    "pikelpn-3x": Member(1.5, 16),
    "pikelpn-6x": Member(2.0, 16),
}


class _Network:
    """Nodes and constants as they are added."""

    def __init__(self, seed: int, activation: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.activation = activation
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, array: NDArray[np.float32]) -> str:
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}/out"], name, **attributes))
        return f"{name}/out"

    def weights(self, name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        draw = self.rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        return self.constant(f"{name}/weight", draw)

    def block(
        self, name: str, x: str, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        """Convolution, norm, activation."""
        inputs, outputs = channels
        w = self.weights(name, outputs, inputs // group, kernel, kernel)
        pads = [kernel // 2] * 4
        attributes = {"strides": [stride] * 2, "pads": pads, "group": group, "kernel_shape": [kernel] * 2}
        y = self.node("Conv", name, x, w, **attributes)
        norm = [
            self.constant(f"{name}/norm/{role}", values.astype(np.float32))
            for role, values in (
                ("scale", 1 + 0.1 * self.rng.standard_normal(outputs)),
                ("bias", 0.1 * self.rng.standard_normal(outputs)),
                ("mean", 0.1 * self.rng.standard_normal(outputs)),
                ("var", 1 + 0.1 * self.rng.random(outputs)),
            )
        ]
        y = self.node("BatchNormalization", f"{name}/norm", y, *norm)
        if self.activation == "relu":
            return self.node("Relu", f"{name}/act", y)
        slope = self.constant(f"{name}/act/slope", np.full((outputs, 1, 1), 0.25, np.float32))
        return self.node("PRelu", f"{name}/act", y, slope)


def mobilenet_v1(
    width: float = 1.0, *, side: int = 224, classes: int = 1000, activation: str = "relu", seed: int = 0
) -> ModelProto:
    """MobileNetV1: nodes `stem`, `dw1`, `pw1`, ... `pw13`, `fc`, norms `NAME/norm`, activations `NAME/act`.

    Args:
        width: factor of all channels.
        side: of the image, float32 (batch, 3, side, side).
        classes: logits, float32 (batch, classes).
        activation: one of ACTIVATIONS; "prelu" has a slope for each channel, as PikeLPN's are parameterised.
        seed: of the weights.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not '{activation}'")
    net = _Network(seed, activation)
    first, last = round(32 * width), round(1024 * width)
    x = net.block("stem", "image", (3, first), 3, stride=2)
    for i, (inputs, outputs, stride) in enumerate(BLOCKS, 1):
        c, out = round(inputs * width), round(outputs * width)
        x = net.block(f"dw{i}", x, (c, c), 3, stride=stride, group=c)
        x = net.block(f"pw{i}", x, (c, out), 1)
    x = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pool", x))
    w, b = net.weights("fc", classes, last), net.constant("fc/bias", np.zeros(classes, np.float32))
    net.nodes.append(helper.make_node("Gemm", [x, w, b], ["logits"], "fc", transB=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(net.nodes, "mobilenet_v1", [image], [logits], net.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
