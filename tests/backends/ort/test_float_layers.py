"""A layer that stays float behind integers computes with its float weights in stock ONNX Runtime."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

import lpcompile
from tests.support import parse_model, random_feeds, run_model

CONVOLUTIONS = """m (float[N,8,6,6] x) => (float[N,8,6,6] y)
<float[8,8,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,3,3] w3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    middle = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu (middle)
    y = Conv <pads = [1, 1, 1, 1]> (s, w3)
}"""
TRANSPOSED = CONVOLUTIONS.replace("middle = Conv", "middle = ConvTranspose")
PRODUCTS = """m (float[N,16] x) => (float[N,16] y)
<float[16,16] w1, float[16] b1, float[16,16] w2, float[16] b2, float[16,16] w3> {
    a = Gemm (x, w1, b1)  r = Relu (a)  middle = Gemm (r, w2, b2)  s = Relu (middle)  y = Gemm (s, w3)
}"""
ALL_ON_INTEGERS = (
    "fold-constants,canonicalize,fold-batchnorm,quantize-activations{cost=none},quantize-weights{format=int8}"
)


@dataclass
class Made:
    original: ModelProto
    model: ModelProto

    def outputs(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Of ONNX Runtime as a user runs it, and of onnx's own evaluator."""
        feeds = random_feeds(self.original, seed=40)
        (wanted,) = ReferenceEvaluator(self.model).run(None, feeds)
        return run_model(self.model, feeds)["y"], np.asarray(wanted)


def made(text: str, emit: str = "standard", **options: Any) -> Made:
    model = parse_model(text, opset=21)
    middle = next(n for n in model.graph.node if n.output[0] == "middle")
    middle.name = "middle"
    calls = [random_feeds(model, seed=i) for i in range(6)]
    found = lpcompile.compile(
        model, calibration=calls, passes=ALL_ON_INTEGERS, emit=emit, keep_float=["middle"], **options
    )
    return Made(model, found.model)


@pytest.mark.sweep
@pytest.mark.parametrize("emit", ["standard", "qdq"])
@pytest.mark.parametrize("text", [CONVOLUTIONS, TRANSPOSED, PRODUCTS])
def test_float_weights_are_not_rounded_when_loaded(text: str, emit: str) -> None:
    found, wanted = made(text, emit).outputs()
    steps = np.abs(wanted).max() / 255
    assert np.abs(found - wanted).mean() < 0.05 * steps  # a rounded weight moves nearly every output


def test_one_clip_for_all_layers_that_read_a_tensor() -> None:
    text = CONVOLUTIONS.replace(
        "s = Relu (middle)", "k = Conv <pads = [1, 1, 1, 1]> (r, w3)  s = Add (middle, k)"
    )
    model = made(text).model
    clips = [n for n in model.graph.node if n.op_type == "Clip" and n.output[0].endswith("/float")]
    assert len(clips) == 1


def test_layers_on_integers_get_none() -> None:
    model = parse_model(CONVOLUTIONS)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    found = lpcompile.compile(model, calibration=calls, passes=ALL_ON_INTEGERS, emit="standard").model
    assert not any(n.op_type == "Clip" and n.output[0].endswith("/float") for n in found.graph.node)
    onnx.checker.check_model(found)
