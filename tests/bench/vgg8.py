"""VGG-8 for 32 x 32 images with seeded weights: the network that NeuroSim benchmarks, as a graph."""

import math

import onnx
from onnx import ModelProto, TensorProto, helper

from tests.bench.resnet18 import OPSET, Writer

SIDE, CLASSES = 32, 10
CHANNELS = (128, 128, 256, 256, 512, 512)  # two convolutions of 3 x 3, then a pool
HIDDEN = 1024


def vgg8(seed: int = 0) -> ModelProto:
    """VGG-8 with unfolded batch norms: 13 M weights, 616 M multiply-accumulates.

    Args:
        seed: of the weights.

    Returns:
        The model; input "image" (N, 3, 32, 32), output "logits" (N, 10).
    """
    w, x, inputs = Writer(seed), "image", 3
    for i, outputs in enumerate(CHANNELS, 1):
        x = w.node("Relu", [w.conv_bn(x, f"conv{i}", inputs, outputs, 3, 1)], f"relu{i}")
        if i % 2 == 0:
            x = w.node("MaxPool", [x], f"pool{i // 2}", kernel_shape=[2, 2], strides=[2, 2])
        inputs = outputs
    x = w.node("Flatten", [x], "flatten")
    wide = inputs * (SIDE >> len(CHANNELS) // 2) ** 2
    x = w.node("Relu", [_dense(w, x, "fc1", wide, HIDDEN)], "relu_fc1")
    logits = _dense(w, x, "fc2", HIDDEN, CLASSES)
    w.nodes[-1].output[0] = "logits"
    assert logits == "fc2_output"
    graph = helper.make_graph(
        w.nodes,
        "vgg8",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        w.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _dense(w: Writer, x: str, name: str, inputs: int, outputs: int) -> str:
    weights = w.rng.normal(0, math.sqrt(2 / inputs), (outputs, inputs))
    names = [w.weight(f"{name}.weight", weights), w.weight(f"{name}.bias", w.rng.normal(0, 0.1, outputs))]
    return w.node("Gemm", [x, *names], name, transB=1)
