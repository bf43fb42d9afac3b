"""`equalize{absorb=true}`: biases move through rectifiers where no sample lies below, and only there."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, quantized
from tests.support import assert_same_outputs, parse_model

ABSORB = f"{GRAPH_PASSES},equalize{{absorb=true}}"
CONVS = """m (float[2,4,6,6] x) => (float[2,5,6,6] y) <float[3,4,1,1] w1, float[3] b1, float[5,3,1,1] w2, float[5] b2> {
    t = Tanh (x)  a = Conv (t, w1, b1)  r = Relu (a)  y = Conv (r, w2, b2) }"""
MATRICES = """m (float[6,4] x) => (float[6,5] y) <float[4,3] w1, float[3] b1, float[3,5] w2, float[5] b2> {
    t = Tanh (x)  a = MatMul (t, w1)  b = Add (a, b1)  r = LeakyRelu (b)  y = Gemm (r, w2, b2) }"""


def lifted(text: str) -> ModelProto:
    """A model in which the first two channels lie far above zero."""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(numpy_helper.from_array(np.array([30, 20, 0.1], np.float32), "b1"))
    return model


def absorbed(model: ModelProto | str) -> Quantized:
    return quantized(model, NO_COSTS, graph_passes=ABSORB)


@pytest.mark.parametrize("text", [CONVS, MATRICES])
def test_the_float_network_stays(text: str) -> None:
    model = lifted(text)
    found = absorbed(model)
    (change,) = [c for c in found.reports["equalize"].changes if "absorbed" in c.what]
    assert "times narrower" in change.after
    for seed in range(3):
        assert_same_outputs(model, found.graph.to_proto(), rtol=1e-4, seed=seed)
    assert found.rerun("equalize{absorb=true}")["equalize"].changes == []


def test_what_is_absorbed_is_what_all_samples_have() -> None:
    found = absorbed(lifted(CONVS))
    (conv,) = [n for n in found.graph.nodes("Conv") if n.inputs[0] is not None and n.inputs[0].name == "t"]
    bias = conv.inputs[2]
    weight = numpy_helper.to_array(next(t for t in found.original.graph.initializer if t.name == "w1"))
    assert bias is not None
    reach = np.abs(weight).sum((1, 2, 3))  # |Tanh| < 1
    assert (bias.values[:2] > 0).all()  # three deviations stay
    assert (bias.values[:2] < 2 * reach[:2] + 1).all()
    assert "r/absorbed" in "".join(v.name for n in found.graph.nodes() for v in n.outputs if v is not None)


def test_biases_that_help_nobody_stay() -> None:
    report = absorbed(CONVS).reports["equalize"]
    assert not any("absorbed" in c.what for c in report.changes)
    assert "its channels have too little in common" in [s.reason for s in report.skips]


HELD = {
    "its slope is not constant": "s = Relu (v)  r = PRelu (a, s)  y = Conv (r, w2)",
    "no layer with a bias gives its input": "q = Relu (x)  b = Conv (q, w1)  r = Tanh (b)  y = Conv (r, w2)",
    "its input is used elsewhere too": "r = Relu (a)  s = Add (r, a)  y = Conv (s, w2)",
    "its result is read from outside": "y = Relu (a)",
    "Tanh reads its result": "r = Relu (a)  s = Tanh (r)  y = Conv (s, w2)",
    "the padding of {conv} is not shifted": "r = Relu (a)  y = Conv <pads = [1,1,1,1]> (r, w3)",
    "the weight of {conv} is not a float constant": "r = Relu (a)  k = Relu (w4)  y = Conv (r, k)",
}


@pytest.mark.parametrize("reason", HELD)
def test_what_cannot_absorb_says_why(reason: str) -> None:
    size = 3 if "=" in HELD[reason] and "y = Relu" in HELD[reason] else 5
    text = f"""m (float[2,4,6,6] x, float[3,1,1] v, float[5,3,1,1] w4) => (float[2,{size},6,6] y)
        <float[3,4,1,1] w1, float[3] b1, float[5,3,1,1] w2, float[5,3,3,3] w3> {{
        a = Conv (x, w1, b1)  {HELD[reason]} }}"""
    found = absorbed(text)
    report = found.reports["equalize"]
    assert not any("absorbed" in c.what for c in report.changes)
    named = {reason.format(conv=n.name) for n in found.graph.nodes("Conv")}
    assert named & {s.reason for s in report.skips}
