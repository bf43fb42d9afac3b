"""`equalize{method=ranges}`: the float network stays, narrow channels get finer steps, all others say why not."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import lpcompile
from lpcompile.analysis.equalization import ChannelExtremes, factors, noise
from lpcompile.ir.graph import LpGraph
from lpcompile.passes import equalize_ranges, harmful_ranges
from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, quantized
from tests.support import Array, assert_same_outputs, parse_model

EQUAL = f"{GRAPH_PASSES},equalize{{method=ranges}}"
PLAN = f"{NO_COSTS},quantize-weights{{rule=output-mse}},correct-bias"
DENSE = """m (float[2,4,9,9] x) => (float[2,5,5,5] y)
<float[8,4,3,3] w1, float[8] b1, float[5,8,3,3] w2, float[5] b2> {
    a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2, b2)
}"""
DEPTHWISE = """m (float[2,4,9,9] x) => (float[2,8,5,5] y) <float[8,4,3,3] w1, float[8,1,3,3] w2, float[8] b2> {
    a = Conv (x, w1)  r = LeakyRelu (a)  y = Conv <group = 8> (r, w2, b2)
}"""
POOLED = """m (float[2,4,9,9] x) => (float[2,5,2,2] y, float[2,6,3,3] z)
<float[8,4,3,3] w1, float[8] b1, float[5,8,2,2] w2, float[6,4,1,1] w3> {
    a = Conv (x, w1, b1)  r = Relu (a)  p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
    y = Conv (p, w2)  z = Conv <group = 2> (p, w3)
}"""


def uneven(text: str) -> ModelProto:
    """A model whose first layer gives channels of very different ranges."""
    model = parse_model(text)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "b1"):
            w = numpy_helper.to_array(tensor)
            gain = np.logspace(0, -2, 8, dtype=np.float32).reshape(-1, *[1] * (w.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array(w * gain, tensor.name))
        elif tensor.name in ("w2", "w3"):  # and whose next ones make them count alike
            w = numpy_helper.to_array(tensor)
            gain = np.logspace(0, 2, 8, dtype=np.float32)
            if w.shape[1] == 8:
                w = w * gain.reshape(1, 8, 1, 1)
            elif w.shape[1] == 1:
                w = w * gain.reshape(8, 1, 1, 1)
            tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    return model


def both(model: ModelProto) -> tuple[Quantized, Quantized]:
    return quantized(model, PLAN, graph_passes=EQUAL), quantized(model, PLAN)


@pytest.mark.parametrize("text", [DENSE, DEPTHWISE, POOLED])
def test_the_float_network_stays(text: str) -> None:
    model = uneven(text)
    found = quantized(model, NO_COSTS, graph_passes=EQUAL)
    assert len(found.reports["equalize"].changes) == 1
    assert_same_outputs(model, found.graph.to_proto(), rtol=1e-4)
    assert found.rerun("equalize")["equalize"].changes == []


@pytest.mark.thorough
@pytest.mark.parametrize("text", [DENSE, DEPTHWISE])
def test_narrow_channels_gain(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # else the worst tensors would keep floats instead
    monkeypatch.setattr(harmful_ranges, "RUINED_DB", -100.0)
    with_it, without = both(uneven(text))
    gain = np.mean([with_it.sqnr_db(seed=i) - without.sqnr_db(seed=i) for i in range(4)])
    assert gain > 3


def test_factors_are_the_root_of_the_range() -> None:
    seen: Array = np.array([4.0, 1.0, 0.0])
    found = factors(ChannelExtremes(seen, seen**2, 1))
    assert found is not None
    np.testing.assert_allclose(found, [1, 0.5, 1 / 16])
    assert factors(ChannelExtremes(np.zeros(3), np.zeros(3), 1)) is None


@pytest.mark.parametrize("group", [1, 2, 6])
def test_noise_is_that_of_the_formula(group: int) -> None:
    rng = np.random.default_rng(group)
    model = parse_model(
        f"m (float[1,6,4,4] x) => (float[1,12,2,2] y) <float[12,{6 // group},3,3] w> {{"
        f" y = Conv <group = {group}> (x, w) }}"
    )
    graph = LpGraph.from_proto(model)
    extremes = ChannelExtremes(rng.uniform(0.1, 4, 6), rng.uniform(1, 9, 6), 10)
    s = rng.uniform(0.2, 1, 6)
    w = graph.value("w").values.astype(np.float64)  # (12, 6 / group, 3, 3)
    step, wanted = extremes.largest.max() / 255, 0.0
    for o in range(12):
        channels = np.arange(6).reshape(group, -1)[o // (12 // group)]
        scaled = w[o] * s[channels, None, None]
        moments = np.broadcast_to((extremes.second_moment / s**2)[channels, None, None], scaled.shape)
        wanted += step**2 / 12 * (scaled**2).sum()
        wanted += (np.abs(scaled).max() / 127) ** 2 / 12 * moments.sum()
    found = noise(graph.nodes("Conv"), extremes, np.ones(6), s)
    assert found[1] == pytest.approx(wanted, rel=1e-5)
    assert found[0] == noise(graph.nodes("Conv"), extremes, np.ones(6))[0]


@pytest.mark.parametrize(("budget", "calls"), [(8e9, 8), (6.5 * 23112, 6), (0, 4)])
def test_large_networks_are_looked_at_on_fewer_calls(
    budget: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equalize_ranges, "MACS", budget)  # DENSE: 7 x 7 x 8 x 36 and 25 x 5 x 72 products
    graph = LpGraph.from_proto(parse_model(DENSE))
    graph.infer_shapes()
    found = equalize_ranges.some_calls(graph, [{"x": np.full(1, i)} for i in range(20)])
    assert len(found) == calls
    assert [float(found[i]["x"][0]) for i in (0, -1)] == [0, 19]


def test_scaled_tensors_are_renamed() -> None:
    found = quantized(uneven(POOLED), NO_COSTS, graph_passes=EQUAL)
    for name in "arp":
        assert name not in found.graph
        assert f"{name}/equalized" in found.graph


OTHERS = {
    "no Relu follows": """m (float[1,4,6,6] x) => (float[1,3,6,6] y)
        <float[5,4,1,1] w1, float[3,5,1,1] w2> { a = Conv (x, w1)  y = Conv (a, w2) }""",
    "Add reads its result": """m (float[1,4,6,6] x) => (float[1,4,6,6] y)
        <float[4,4,1,1] w1, float[4,4,1,1] w2> { a = Conv (x, w1)  s = Add (a, x)  y = Conv (s, w2) }""",
    "its result is read from outside": """m (float[1,4,6,6] x) => (float[1,5,6,6] y) <float[5,4,1,1] w1> {
        y = Conv (x, w1) }""",
    "its weights or bias are not constants": """m (float[1,4,6,6] x, float[5,4,1,1] v) => (float[1,3,6,6] y)
        <float[3,5,1,1] w2> { a = Conv (x, v)  y = Conv (a, w2) }""",
    "its output is zero or not finite on the samples": """m (float[1,4,6,6] x) => (float[1,3,6,6] y)
        <float[5,4,1,1] w1, float[3,5,1,1] w2> { z = Relu (x)  n = Neg (z)  m = Relu (n)  a = Conv (m, w1)
        r = Relu (a)  y = Conv (r, w2) }""",
}


@pytest.mark.parametrize("reason", OTHERS)
def test_what_cannot_be_scaled_says_why(reason: str) -> None:
    report = quantized(OTHERS[reason], NO_COSTS, graph_passes=EQUAL).reports["equalize"]
    assert report.changes == []
    assert reason in [s.reason for s in report.skips]


def test_weights_that_would_lose_more_stay() -> None:
    model = parse_model(DENSE)
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2"):
            w = numpy_helper.to_array(tensor).copy()
            if tensor.name == "w1":
                w[1:] *= 0.01
            else:  # the wide channel carries all of the weights
                w[:, 1:] *= 1e-3
            tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    report = quantized(model, NO_COSTS, graph_passes=EQUAL).reports["equalize"]
    assert report.changes == []
    assert any("lose more" in s.reason for s in report.skips)


def test_without_samples_nothing_is_scaled() -> None:
    report = quantized(DENSE, NO_COSTS, calls=0, graph_passes=EQUAL).reports["equalize"]
    assert not report.changes
    assert not report.skips


def test_generated_inputs_scale_nothing() -> None:
    made = lpcompile.compile(uneven(DENSE), target="cim", recipe="int8", dry_run=True)
    (report,) = (p for p in made.report["passes"] if p["name"] == "equalize")
    assert report["changes"] == []
    assert "generated inputs say little of single channels" in [s["reason"] for s in report["skips"]]


def test_heads_that_share_weights_go_on_sharing_them() -> None:
    text = """m (float[2,4,9,9] x, float[2,4,7,7] z) => (float[2,5,5,5] y, float[2,5,3,3] q)
<float[8,4,3,3] w1, float[8] b1, float[5,8,3,3] w2, float[5] b2> {
    a = Conv (x, w1, b1)  r = Relu (a)  y = Conv (r, w2, b2)
    c = Conv (z, w1, b1)  s = Relu (c)  q = Conv (s, w2, b2)
}"""
    found = quantized(uneven(text), PLAN, graph_passes=EQUAL)
    assert not found.reports["equalize"].changes
    assert [s.reason for s in found.reports["equalize"].skips].count(equalize_ranges.SHARES) == 2
    assert len({v.codes_sha256 for v in found.layers.values()}) == 2
