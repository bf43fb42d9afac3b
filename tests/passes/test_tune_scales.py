"""`tune-scales`: codes stay, the rest comes nearer to the float model; twice the same; every reason to do nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import GradientError, InputError, OutputError, PassOptionError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.pipeline import PassContext
from lpcompile.quant.fit import fit
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.records import PassReport
from lpcompile.registry import pass_class, split_pipeline
from tests.passes.test_tune_weights import CNN, MLP, NORM
from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, learned, noise, quantized, rounded, same_plan
from tests.support import parse_model

SHORT = "epochs=6,learning-rate=0.02,batch=8,loss=mse"


def tuned(found: Quantized, options: str = SHORT, **context: object) -> tuple[LpGraph, PassReport]:
    """A copy of the graph after tuning, and the report."""
    graph, report, _ = learned(found, f"tune-scales{{{options}}}", **context)
    return graph, report


@pytest.fixture(scope="module")
def cnn() -> Quantized:
    return rounded(CNN)


@pytest.mark.sweep
@pytest.mark.parametrize("text", [CNN, MLP])
@pytest.mark.parametrize("fmt", ["fixp4", "posit4"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_codes_stay_and_the_compiled_model_comes_nearer(text: str, fmt: str, granularity: str) -> None:
    found = rounded(text, fmt, granularity=granularity)
    graph, report = tuned(found)
    assert report.metrics["loss_held_after"] < report.metrics["loss_held_before"]
    assert report.metrics["gain_db"] > 0
    assert noise(found, graph) < noise(found, found.graph)
    for name, layer in graph.plan.layers.items():
        before = found.graph.plan.layers[name].tensor
        assert before is not None
        assert layer.tensor is not None
        np.testing.assert_array_equal(layer.tensor.codes, before.codes)
        assert layer.codes_sha256 == layer.tensor.digest() != before.digest()
        assert layer.tensor.total_bits == before.total_bits
        assert layer.reason.endswith("scales tuned")
        if isinstance(before.scales, QuantizedTensor):
            assert isinstance(layer.tensor.scales, QuantizedTensor)
            np.testing.assert_array_equal(layer.tensor.scales.codes, before.scales.codes, "multipliers")
        (said,) = [c.after for c in report.changes if c.node == name]
        moved = np.abs(channel_scales(layer.tensor) / channel_scales(before) - 1)
        assert said.startswith(
            f"{100 * np.mean(moved > 0):.0f} % of its scales moved, by {100 * moved.max():.2g} %"
        )
    assert report.metrics["largest_move"] > 0


def test_eight_bit_scales_move_by_steps_of_their_format() -> None:
    found = quantized(
        CNN,
        f"{NO_COSTS},quantize-weights{{format=fixp4,granularity=channel,scale-format=ufloat8_e4m4}}",
        calls=24,
    )
    graph, _ = tuned(found, "epochs=8,learning-rate=0.05,batch=8,loss=mse")
    moved = []
    for name, layer in graph.plan.layers.items():
        before = found.graph.plan.layers[name].tensor
        assert before is not None
        assert layer.tensor is not None
        assert isinstance(layer.tensor.scales, QuantizedTensor)
        assert layer.tensor.scales.format.name == "ufloat8_e4m4"
        moved.append(channel_scales(layer.tensor) / channel_scales(before))
    ratios = np.concatenate([m[m != 1] for m in moved])
    assert len(ratios)
    assert (np.abs(ratios - 1) > 0.02).all(), "neighbours lie 3 to 6 % apart"


@pytest.mark.sweep
@pytest.mark.parametrize("ranges", ["narrow", "all", "fixed"])
def test_ranges_are_trained_as_asked(ranges: str) -> None:
    found = rounded(CNN, activations="uint4")
    graph, report = tuned(found, f"{SHORT},ranges={ranges}")
    old, new = found.graph.plan.activations, graph.plan.activations
    moved = {t for t in new if new[t].scale != old[t].scale}
    assert moved == {c.node for c in report.changes if c.what == "range tuned"}
    narrow = {t for t in old if old[t].code_max < 255}
    assert bool(moved & narrow) is (ranges != "fixed")
    assert bool(moved - narrow) is (ranges == "all")
    assert all(new[t].start == old[t].scale for t in moved)


def test_norms_are_trained_in_the_plan() -> None:
    found = rounded(NORM)
    graph, report = tuned(found)
    (node,) = graph.nodes("BatchNormalization")
    assert set(graph.plan.norms) == {node.name}
    assert set(graph.plan.norms[node.name].constants) == {1, 2}
    assert node.name in {c.node for c in report.changes}
    assert noise(found, graph) < noise(found, found.graph)
    again, _ = tuned(replace(found, graph=graph))
    start = with_planned_constants(graph).node(node.name).inputs[1]
    assert start is not None
    now = again.plan.norms[node.name].constants[1]
    assert np.abs(now - start.values).max() < 0.1, "it goes on from what is planned"


@pytest.mark.thorough
def test_the_same_again_and_from_a_checkpoint(cnn: Quantized, tmp_path: Path) -> None:
    class Interrupted(Exception):
        """The process ends."""

    whole, report = tuned(cnn, checkpoint=tmp_path / "whole")
    assert same_plan(whole, tuned(cnn)[0])
    assert not same_plan(whole, tuned(cnn, seed=1)[0]), "the order of samples comes from the seed"
    labels = []

    def stop(what: str, done: int, total: int) -> None:
        labels.append(what)
        if what.startswith("tuning scales, about") and done > total // 2 + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        tuned(cnn, checkpoint=tmp_path / "broken", progress=stop)
    assert [p.name for p in (tmp_path / "broken" / "scales").iterdir()] == ["epoch-00003.npz"]
    resumed, again = tuned(cnn, checkpoint=tmp_path / "broken", resume=True)
    assert same_plan(whole, resumed)
    assert again.metrics["loss_held_after"] == report.metrics["loss_held_after"]
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        tuned(cnn, checkpoint=tmp_path / "broken")
    with pytest.raises(InputError, match="another epochs"):
        tuned(cnn, SHORT.replace("epochs=6", "epochs=7"), checkpoint=tmp_path / "broken", resume=True)


@pytest.mark.thorough
def test_a_second_run_keeps_the_codes_and_does_not_lose(cnn: Quantized) -> None:
    once, first = tuned(cnn)
    twice, second = tuned(replace(cnn, graph=once))
    assert second.metrics["loss_held_before"] == pytest.approx(first.metrics["loss_held_after"], rel=1e-5)
    assert second.metrics["loss_held_after"] <= second.metrics["loss_held_before"]
    assert noise(cnn, twice) <= noise(cnn, once) * 1.0001 or same_plan(once, twice)
    for name, layer in twice.plan.layers.items():
        assert layer.tensor is not None
        np.testing.assert_array_equal(layer.tensor.codes, cnn.graph.plan.layers[name].tensor.codes)  # type: ignore[union-attr]
        assert layer.reason.count("scales tuned") == 1


def test_what_lost_on_held_out_samples_is_not_kept(cnn: Quantized) -> None:
    graph, report = tuned(cnn, "epochs=1,learning-rate=50")
    assert same_plan(graph, cnn.graph)
    assert {s.reason for s in report.skips} == {"retraining did not lower the loss on held-out samples"}


def test_what_lost_as_a_whole_is_undone(cnn: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpcompile.passes.keep_if_better.gain_db", lambda _before, _after: (-0.25, 0.1))
    graph, report = tuned(cnn)
    assert graph.plan is cnn.graph.plan
    assert not report.changes
    assert [s.reason for s in report.skips] == [
        "the network lost 0.25 dB on the samples: all stays as it was"
    ]


def test_without_samples_nothing_is_tuned(cnn: Quantized) -> None:
    graph, report, ctx = learned(cnn, "tune-scales", calibration=None)
    assert same_plan(graph, cnn.graph)
    assert {s.reason for s in report.skips} == {"no calibration data to retrain on"}
    assert ctx.warnings == ["scales are not retrained: there is no calibration data"]
    bare = LpGraph.from_proto(parse_model(MLP))
    assert not pass_class("tune-scales")().run(bare, PassContext()).changes


def test_scales_that_keep_to_a_rule() -> None:
    found = quantized(
        MLP, f"{NO_COSTS},quantize-weights{{format=fixp4,granularity=channel,rule=power-of-two}}", calls=24
    )
    graph, report = tuned(found)
    first, second = (n.name for n in found.graph.layers())
    said = {s.node: s.reason for s in report.skips}
    rule = "its scales keep to their rule 'power-of-two'"
    assert said == {
        first: f"{rule}; its bias is trained",
        second: f"{rule}, and its bias does: MatMul has no bias of its own",
    }
    layer, before = graph.plan.layers[first], found.graph.plan.layers[first]
    assert layer.tensor == before.tensor
    assert layer.bias_correction is not None
    assert next(c.after for c in report.changes if c.node == first).startswith("bias by ")


def test_float_group_scales_stay(cnn: Quantized) -> None:
    graph = cnn.graph.copy()
    node = graph.layers()[0]
    plan = graph.plan.layers[node.name]
    assert plan.tensor is not None
    like = fit(plan.tensor.dequantize(), plan.tensor.format)
    grouped = replace(like, granularity=PerGroup(27, 1), scales=channel_scales(like).reshape(-1, 1))
    graph.plan = graph.plan.with_layer(
        node.name, replace(plan, tensor=grouped, codes_sha256=grouped.digest())
    )
    _, report = tuned(replace(cnn, graph=graph), "epochs=1")
    assert "its group scales are no integers; its bias is trained" in {s.reason for s in report.skips}


def test_a_network_without_gradients() -> None:
    found = rounded("""m (float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b> {
        h = Gemm (x, w, b)  k = Constant <value = int64[3] {2, 2, 2}> ()  m = Reshape (h, k)  d = Det (m)
        e = Constant <value = int64[2] {2, 1}> ()  c = Reshape (d, e)  y = Add (h, c) }""")
    with pytest.raises(GradientError, match="operator Det has no gradient"):
        tuned(found)
    graph, report = tuned(found, f"{SHORT},required=false")
    assert same_plan(graph, found.graph)
    assert {s.reason for s in report.skips} == {"it cannot be retrained: operator Det has no gradient"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("loss=cross-entropy", "option 'loss' is one of auto, kl, mse, kl-or-mse, not 'cross-entropy'"),
        ("ranges=wide", "option 'ranges' is one of narrow, all, fixed"),
        ("epochs=0", "option 'epochs' is at least 1"),
        ("batch=0", "option 'batch' is at least 1"),
        ("learning-rate=0", "option 'learning-rate' is positive"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: str, message: str) -> None:
    ((name, given),) = split_pipeline(f"tune-scales{{{options}}}")
    with pytest.raises(PassOptionError, match=message):
        pass_class(name).configured(given)


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["ort", "cim"])
def test_from_end_to_end_and_from_the_decisions(target: str, tmp_path: Path) -> None:
    """Ranges, norms, scales and biases of both targets; the verification compares integers bit for bit."""
    calls = [{"x": x[None]} for x in np.random.default_rng(3).normal(size=(24, 4, 6, 6)).astype(np.float32)]
    given: dict[str, Any] = {"target": target, "calibration": calls}
    # the first layer is needed, for the first and the last one keep 8 bits
    text = NORM.replace("r = Relu (x)", "a = Conv (x, u)  r = Relu (a)").replace(
        "float[4] scale", "float[4,4,1,1] u, float[4] scale"
    )
    activations = "quantize-activations{cost=none,format=uint4}"
    pipeline = f"{GRAPH_PASSES},{activations},quantize-weights{{format=fixp4}},tune-scales{{{SHORT}}}"
    first = lpcompile.compile(parse_model(text), passes=pipeline, **given)
    (entry,) = [p for p in first.report["passes"] if p["name"] == "tune-scales"]
    assert entry["metrics"]["gain_db"] > 0
    assert first.report["ledger"][-1]["step"] == "tune-scales"
    assert first.report["effort"]["learned_by"] == ["tune-scales"]
    assert "[norms." in first.decisions
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(parse_model(text), decisions=path, **given)
    assert again.decisions == first.decisions
    assert again.model.SerializeToString() == first.model.SerializeToString()
    path.write_text(first.decisions.replace('constants_sha256 = "', 'constants_sha256 = "0'), "utf-8")
    other = lpcompile.compile(parse_model(text), decisions=path, **given)
    assert any("its constants are not those of the decisions" in w for w in other.report["warnings"])
