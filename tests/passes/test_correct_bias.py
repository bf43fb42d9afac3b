"""`correct-bias`: output means come back to those of the float model; a layer that has no way says why."""

import numpy as np
import pytest

import lpcompile
from tests.quantizing import NO_COSTS, quantized, same_plan
from tests.support import Array, parse_model, random_feeds, run_model

ALL = f"{NO_COSTS},quantize-weights{{format=fixp4}},correct-bias"
# inputs far from zero on average, where the mean error of rounded weights shows
CNN = """m (float[2,4,6,6] x) => (float[2,4,4,4] y)
<float[8,4,3,3] w1, float[8] b1, float[4,8,1,1] w2, float[4] b2> {
    s = Mul (x, x)
    a = Conv (s, w1, b1)
    r = Relu (a)
    y = Conv (r, w2, b2)
}"""
DEPTHWISE = """m (float[2,4,6,6] x) => (float[2,4,4,4] y) <float[4,1,3,3] w1, float[4] b1> {
    s = Mul (x, x)  y = Conv <group = 4> (s, w1, b1)
}"""
MLP = """m (float[8,16] x) => (float[8,4] y) <float[16,8] w1, float[8] b1, float[8,4] w2, float[4] b2> {
    s = Mul (x, x)  h = Gemm (s, w1, b1)  r = Relu (h)  y = Gemm (r, w2, b2)
}"""


def mean_error(text: str, passes: str) -> Array:
    """Mean output error of each channel over many samples."""
    found = quantized(text, passes)
    emitted, total = found.emitted(), []
    for seed in range(200, 240):
        feeds = random_feeds(found.original, seed=seed)
        error = run_model(emitted, feeds)["y"] - run_model(found.original, feeds)["y"]
        total.append(error.mean(tuple(i for i in range(error.ndim) if i != 1)))
    return np.asarray(np.mean(total, 0))


@pytest.mark.sweep
@pytest.mark.parametrize("text", [DEPTHWISE, MLP, CNN])
def test_mean_errors_shrink(text: str) -> None:
    with_it = mean_error(text, ALL)
    without = mean_error(text, ALL.removesuffix(",correct-bias"))
    assert np.abs(with_it).sum() < 0.5 * np.abs(without).sum()


@pytest.mark.parametrize("text", [DEPTHWISE, CNN, MLP])
def test_the_correction_is_the_mean_of_the_rounding_error_of_the_weights(text: str) -> None:
    found = quantized(text, ALL)
    node = found.graph.layers()[0]
    layer, weight = found.graph.plan.layers[node.name], node.inputs[1]
    assert layer.tensor is not None
    assert layer.bias_correction is not None
    assert weight is not None
    assert found.context.calibration is not None
    group = int(node.attrs.get("group", 1))
    calls = [feeds["x"] ** 2 for feeds in found.context.calibration.deciding]
    means = np.mean([c.mean(tuple(i for i in range(c.ndim) if i != 1), dtype=float) for c in calls], 0)
    wanted = []
    for o, row in enumerate(layer.tensor.dequantize()):
        if node.op == "Gemm":
            wanted.append(-((row - weight.values[:, o]) * means).sum())
        else:
            first = o // (weight.values.shape[0] // group) * weight.values.shape[1]
            error = row.reshape(weight.values.shape[1:]) - weight.values[o]
            wanted.append(-(error.sum((1, 2)) * means[first : first + len(error)]).sum())
    np.testing.assert_allclose(layer.bias_correction, wanted, rtol=1e-4, atol=1e-6)


SATURATING = """m (float[8,16] x) => (float[8,8] y) <float[16,8] w1, float[8] b1> {
    h = Gemm (x, w1, b1)  y = Tanh (h)
}"""


def test_what_means_of_a_few_loud_samples_would_cost_is_undone() -> None:
    """One call of five is a hundred times as loud and saturates: its mean moves the biases of all."""
    rng = np.random.default_rng(3)
    loudness = np.where(np.arange(20) % 5, 0.3, 30)
    calls = [{"x": (k * rng.normal(1, 0.02, (8, 16))).astype(np.float32)} for k in loudness]
    made = lpcompile.compile(
        parse_model(SATURATING), calibration=calls, recipe="w4a8", passes=f"canonicalize,fold-batchnorm,{ALL}"
    )
    (report,) = [p for p in made.report["passes"] if p["name"] == "correct-bias"]
    assert report["metrics"]["gain_db"] < -report["metrics"]["gain_error_db"]
    assert not report["changes"]
    assert "biases stay" in report["skips"][-1]["reason"]


def test_a_second_run_changes_nothing() -> None:
    found = quantized(MLP, ALL)
    before = found.graph.copy()
    assert found.rerun("correct-bias")["correct-bias"].changes == []
    assert same_plan(before, found.graph)


@pytest.mark.parametrize(
    ("text", "calls", "op", "reason"),
    [
        (
            "m (float[4,6] x) => (float[4,3] y) <float[6,3] w> { y = MatMul (x, w) }",
            8,
            "MatMul",
            "MatMul has no bias of its own",
        ),
        (
            "m (float[1,4,5,5] x) => (float[1,3,6,6] y) <float[4,3,2,2] w> { y = ConvTranspose (x, w) }",
            8,
            "ConvTranspose",
            "outputs of ConvTranspose sum different numbers of products",
        ),
        (
            "m (float[4,6] x) => (float[4,3] y) <float[6,3] w, float[3] b> { y = Gemm (x, w, b) }",
            0,
            "Gemm",
            "its range is measured at run time, there are no calibrated means",
        ),
        (
            "m (float[1,3,4,4] x) => (float[1,3,4,4] y) <float[3,3,1,1] w, float[3] b> {y = Conv (x, w, b)}",
            0,
            "Conv",
            "no calibration data, so the mean of its input is not known",
        ),
        (
            "m (float[6,4] x) => (float[4,3] y) <float[6,3] w, float[3] b> {y = Gemm <transA=1> (x, w, b)}",
            8,
            "Gemm",
            "the Gemm is not in the form x @ W + b",
        ),
        (
            "m (float[4,6] x, float[3] b) => (float[4,3] y) <float[6,3] w> { y = Gemm (x, w, b) }",
            8,
            "Gemm",
            "its bias is not one constant an output channel",
        ),
    ],
)
def test_each_reason_to_leave_a_bias_alone(text: str, calls: int, op: str, reason: str) -> None:
    found = quantized(parse_model(text), ALL, calls=calls, graph_passes="fold-batchnorm")
    assert found.skip_reason("correct-bias", op) == reason
    assert found.reports["correct-bias"].changes == []
    assert found.sqnr_db() > 12


def test_a_convolution_without_bias_gets_one() -> None:
    text = "m (float[1,3,4,4] x) => (float[1,3,4,4] y) <float[3,3,1,1] w> { s = Mul (x, x)  y = Conv (s, w) }"
    found = quantized(text, ALL)
    assert found.layer("Conv").bias_correction is not None
    assert found.sqnr_db() > 12


def test_what_was_corrected_when_it_was_rounded_stays() -> None:
    found = quantized(CNN, f"{NO_COSTS},quantize-weights{{format=fixp4,rounding=gptq}}")
    before = found.graph.copy()
    report = found.rerun("correct-bias")["correct-bias"]
    assert {s.reason for s in report.skips} == {"its bias was corrected when its weights were rounded"}
    assert [s.node for s in report.skips] == [n.name for n in found.graph.layers()]
    assert report.changes == []
    assert same_plan(before, found.graph)
