"""`dual-precision`: what it plans, what both forms make of it, bit for bit, and what it does with odd layers."""

import tomllib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from packaging.version import Version

import lpcompile
from lpcompile.errors import PassOptionError
from lpcompile.passes.dual_precision import DualPrecision
from lpcompile.passes.float8_moments import gather_moments
from lpcompile.plan import DUAL_SCALES, FLOAT8_FORMAT, Kernel
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.runtime.reference import evaluate
from tests.passes.dual_networks import MLP
from tests.quantizing import quantized
from tests.support import parse_model, random_feeds

NETWORK = """m (float[2,3,9,9] x) => (float[2,5] y)
    <float[8,3,3,3] w, float[8] b, float[8,1,3,3] d, float[8] e, float[6,4,1,1] g, float[6] h, float[294,7] v,
     float[7] c, float[7,5] u> {
    p = Conv <pads = [1, 1, 1, 1]> (x, w, b)  q = Relu (p)
    r = Conv <group = 8> (q, d, e)  s = Clip (r, low, high)
    t = Conv <group = 2> (s, g, h)
    f = Flatten (t)  k = Gemm (f, v, c)  l = Relu (k)  y = MatMul (l, u)
}"""
SHARED = "m (float[4,16] x) => (float[4,16] y) <float[16,16] w> { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, w) }"
DPQ = "dual-precision{group-size=16,least-input-db=0,least-inputs=0}"


def network() -> onnx.ModelProto:
    model = parse_model(
        NETWORK.replace("r, low, high", "r, lo, hi").replace(
            "float[7,5] u>", "float[7,5] u, float lo, float hi>"
        )
    )
    for tensor in model.graph.initializer:
        if tensor.name in ("lo", "hi"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.array(0 if tensor.name == "lo" else 0.8, np.float32), tensor.name
                )
            )
        if tensor.name == "v":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / 8, "v"))
    return model


def shown(model: onnx.ModelProto, feeds: Mapping[str, Any], level: Any) -> dict[str, NDArray[Any]]:
    """Inputs and weights of all layers, and the outputs, in ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {v.name for v in (*copy.graph.output, *copy.graph.input)}
    names = [
        n for node in copy.graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for n in node.input[:2]
    ]
    for name in dict.fromkeys(names):
        if name not in known:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True)
    ) | dict(feeds)
    layers = [n for n in copy.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return {f"{n.name}/{i}": values[n.input[i]] for n in layers for i in (0, 1)} | {
        o.name: values[o.name] for o in model.graph.output
    }


def test_plans_every_layer() -> None:
    found = quantized(network(), DPQ)
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.FLOAT8}
    for layer in found.layers.values():
        w = layer.weight
        assert (w.format, w.granularity, w.scale_rule, w.scale_format) == (
            "int4",
            "group16",
            "levels",
            DUAL_SCALES,
        )
        assert w.rounding == "dpq-levels-gar"
        assert isinstance(layer.tensor, DualPrecisionTensor)
        assert layer.codes_sha256
    feeds = [random_feeds(found.original, seed=i) for i in range(40)]
    for name, plan in found.graph.plan.activations.items():
        assert plan.format == FLOAT8_FORMAT
        assert np.log2(plan.scale) == np.round(np.log2(plan.scale))
        if name == "x":
            largest = max(np.abs(f["x"]).max() for f in feeds)
            assert 120 < largest / plan.scale <= 240
    assert len(found.graph.plan.activations) == 5
    assert found.sqnr_db() > 14


@pytest.mark.thorough
@pytest.mark.parametrize(
    "level", [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
)
def test_both_forms_hold_the_same_numbers(level: Any) -> None:
    """Weights and inputs of every layer: float32 calls, float8 tensors, and the codes by `ml_dtypes`."""
    model = network()
    found = quantized(model, DPQ, opset=21)
    found.graph.raise_opset(21)
    feeds = random_feeds(model, seed=77)
    calls, chain = (shown(found.emitted(form), feeds, level) for form in ("standard", "fp8-qdq"))
    assert {n.op_type for n in found.emitted("fp8-qdq").graph.node} >= {
        "DequantizeLinear",
        "QuantizeLinear",
        "Cast",
    }
    types = {t.data_type for t in found.emitted("fp8-qdq").graph.initializer}
    assert onnx.TensorProto.INT4 in types
    assert onnx.TensorProto.BFLOAT16 in types
    for node in found.graph.layers():
        tensor, weight = found.graph.plan.layers[node.name].tensor, node.inputs[1]
        assert isinstance(tensor, DualPrecisionTensor)
        assert weight is not None
        integers = (tensor.codes.astype(np.int16) ^ 8) - 8
        spread = np.repeat(tensor.group_scales, 16, axis=1)[:, : integers.shape[1]]
        eighths = (integers * spread).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        wanted = eighths * np.float32(tensor.first_scale)
        wanted = wanted.T if node.op in ("Gemm", "MatMul") else wanted.reshape(weight.dims)
        for values in (calls, chain):
            np.testing.assert_array_equal(values[f"{node.name}/1"], wanted)
    np.testing.assert_array_equal(
        calls[f"{found.graph.layers()[0].name}/0"], chain[f"{found.graph.layers()[0].name}/0"]
    )
    for (
        name,
        value,
    ) in calls.items():  # sums of float32 may differ by their order, and roundings after them by a step
        close = np.abs(chain[name] - value) <= 1e-5 * np.abs(value).max()
        assert close.mean() > 0.99, name
        np.testing.assert_allclose(chain[name], value, atol=0.07 * np.abs(value).max())


# ONNX Runtime quantises before the moves, right behind the clamp
MOVED = """m (float[2,3,8,8] x) => (float[2,3,3,3] y) <float[5,3,3,3] w, float[5] b, float[5,3] v> {
    p = Conv (x, w, b)  q = Relu (p)  r = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q)
    t = Transpose <perm = [0, 2, 3, 1]> (r)  y = MatMul (t, v)
}"""


@pytest.mark.skipif(
    Version(ort.__version__) < Version("1.32"), reason="float8 codes go through the MaxPool there"
)
def test_clamps_behind_moves() -> None:
    found = quantized(MOVED, DPQ)
    assert found.graph.raise_opset(21) is None
    feeds = random_feeds(found.original, seed=4)
    level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    a, b = (shown(found.emitted(form), feeds, level)["y"] for form in ("standard", "fp8-qdq"))
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


def test_reference_evaluates_both_forms() -> None:
    found = quantized(MLP, DPQ, opset=21)
    feeds = random_feeds(found.original, seed=5)
    outputs = [evaluate(found.emitted(form), feeds)["y"] for form in ("functions", "fp8-qdq")]
    ran = shown(found.emitted("standard"), feeds, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)["y"]
    for y in outputs:
        np.testing.assert_allclose(y, ran, rtol=1e-4, atol=1e-5)


def test_moments_are_those_of_rounded_inputs() -> None:
    text = "m (float[4,40] x) => (float[4,9] y) <float[40,9] w> { y = MatMul (x, w) }"
    found = quantized(text, DPQ)
    scale = found.graph.plan.activations["x"].scale
    assert found.context.calibration is not None
    x = np.concatenate([f["x"] for f in found.context.calibration.deciding]).astype(np.float64)
    eighths = (x / scale).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale
    for rounded, wanted in ((True, eighths), (False, x)):
        moments = gather_moments(found.graph, found.context, found.graph.layers(), rounded=rounded)
        (metric,) = moments.values()
        np.testing.assert_allclose(metric.matrix[0], wanted.T @ wanted / len(x), rtol=1e-5, atol=1e-5)


def test_inputs_that_float8_would_spoil_stay_float() -> None:
    feeds = [{"x": 100 + 0.5 * random_feeds(parse_model(MLP), seed=i)["x"]} for i in range(8)]
    made = lpcompile.compile(parse_model(MLP), calibration=feeds, recipe="dpq")
    gemm = made.report["layers"][0]
    assert gemm["activation_format"] == "float32"
    assert "inputs stay float" in gemm["reason"]
    assert gemm["weight_format"] == "int4"
    assert "x" not in tomllib.loads(made.decisions).get("activations", {})


def test_shared_weights_and_short_groups() -> None:
    found = quantized(SHARED, "dual-precision{group-size=12,least-input-db=0}")
    assert [layer.kernel for layer in found.layers.values()] == [Kernel.FLOAT8] * 2
    assert found.sqnr_db() > 12
    emitted = found.emitted("fp8-qdq") if found.graph.raise_opset(21) is None else None
    assert emitted is not None
    feeds = random_feeds(found.original, seed=3)
    a, b = (
        shown(m, feeds, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)["y"]
        for m in (found.emitted("standard"), emitted)
    )
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_without_data_weights_alone() -> None:
    found = quantized(MLP, DPQ, calls=0)
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.WEIGHT_ONLY}
    assert not found.graph.plan.activations
    assert "no calibration data" in found.skip_reason("dual-precision", "Gemm")
    assert found.sqnr_db() > 12


def test_without_data_kernels_keep_their_sums() -> None:
    text = "m (float[1,4,9,9] x) => (float[1,8,7,7] y) <float[8,4,3,3] w> { y = Conv (x, w) }"
    found = quantized(text, DPQ, calls=0)
    assert "assumed moments" in found.skip_reason("dual-precision", "Conv")
    node = found.graph.layers()[0]
    tensor, weight = found.layer("Conv").tensor, node.inputs[1]
    assert tensor is not None
    assert weight is not None
    plain = quantized(text, f"{DPQ[:-1]},rule=nearest}}", calls=0).layer("Conv").tensor
    assert plain is not None
    sums = weight.values.reshape(8, 4, 9).sum(axis=2)
    apart = [np.abs(t.dequantize().reshape(8, 4, 9).sum(axis=2) - sums).mean() for t in (tensor, plain)]
    assert apart[0] < 0.6 * apart[1]


def test_one_call_and_dead_inputs() -> None:
    model = parse_model(MLP)
    feeds = random_feeds(model, seed=1)
    feeds["x"][:, 3] = 0
    made = lpcompile.compile(model, calibration=[feeds], recipe="dpq")
    assert {layer["weight_format"] for layer in made.report["layers"]} == {"int4"}
    zeros = lpcompile.compile(model, calibration=[{"x": np.zeros((4, 40), np.float32)}], recipe="dpq")
    assert zeros.report["layers"][0]["activation_format"] == FLOAT8_FORMAT


def test_what_was_planned_before_is_dropped() -> None:
    found = quantized(MLP, f"quantize-activations,{DPQ}")
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.FLOAT8}
    assert any("anew" in w for w in found.context.warnings)


@pytest.mark.parametrize("rule", ["nearest", "gptq-cast", "dpq", "levels"])
def test_rules(rule: str) -> None:
    found = quantized(MLP, f"dual-precision{{rule={rule},order=gar,group-size=16}}")
    names = {
        "nearest": "fp8-nearest",
        "gptq-cast": "gptq-cast-gar",
        "dpq": "dpq-gar",
        "levels": "dpq-levels-gar",
    }
    assert {layer.weight.rounding for layer in found.layers.values()} == {names[rule]}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"rule": "best"}, "rule"),
        ({"order": "activation"}, "order"),
        ({"full-scale": 256}, "full-scale"),
        ({"group-size": 1}, "group-size"),
        ({"activations": "uint8"}, "activations"),
    ],
)
def test_unknown_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(PassOptionError, match=word):
        DualPrecision.configured(options)


# layers whose outputs read few inputs


WIDE = DPQ.replace(",least-inputs=0", "")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "level", [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
)
def test_few_inputs_take_weights_of_eight_bits_in_both_forms(level: Any) -> None:
    model = network()
    found = quantized(model, WIDE, opset=21)
    found.graph.raise_opset(21)
    formats = {n.op + str(n.attrs.get("group", 1)): found.layers[n.name].weight for n in found.graph.layers()}
    assert {k: w.format for k, w in formats.items()} == {
        "Conv1": "int4",
        "Conv8": FLOAT8_FORMAT,
        "Conv2": FLOAT8_FORMAT,
        "Gemm1": "int4",
        "MatMul1": FLOAT8_FORMAT,
    }
    wide = formats["Conv8"]
    assert (wide.granularity, wide.scale_format, wide.rounding) == ("channel", DUAL_SCALES, "dpq")
    feeds = random_feeds(model, seed=77)
    calls, chain = (shown(found.emitted(form), feeds, level) for form in ("standard", "fp8-qdq"))
    for node in found.graph.layers():
        layer, weight = found.layers[node.name], node.inputs[1]
        assert layer.tensor is not None
        assert weight is not None
        if layer.weight.format != FLOAT8_FORMAT:
            continue
        numbers = layer.tensor.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        rows = numbers * np.asarray(layer.tensor.scales).reshape(-1, 1)
        expected = rows.T if node.op in ("Gemm", "MatMul") else rows.reshape(weight.dims)
        for form in (calls, chain):
            np.testing.assert_array_equal(form[f"{node.name}/1"], expected)
        assert layer.kernel is Kernel.FLOAT8
        assert layer.weight_sqnr_db is not None
        assert layer.weight_sqnr_db > 25
    for name, array in evaluate(found.emitted(), feeds).items():
        np.testing.assert_allclose(calls[name], array, rtol=1e-4, atol=1e-4)


def test_eight_bits_bring_a_depthwise_layer_nearer() -> None:
    text = """m (float[2,8,9,9] x) => (float[2,8,7,7] y) <float[8,1,3,3] d, float[8] e> {
        y = Conv <group = 8> (x, d, e) }"""
    without, given = quantized(text, DPQ), quantized(text, WIDE)
    assert given.sqnr_db() > without.sqnr_db() + 4
