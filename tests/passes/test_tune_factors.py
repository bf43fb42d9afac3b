"""`tune-factors`: codes stay, the emitted model comes nearer to the float one, every reason to do nothing, replays."""

from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import GradientError, OutputError, PassOptionError
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext
from lpcompile.records import PassReport
from lpcompile.registry import pass_class, split_pipeline
from tests.quantizing import GRAPH_PASSES, NO_COSTS, Quantized, learned, quantized, same_plan
from tests.support import parse_model, run_model

# classes behind a convolution, one in groups and a Gemm
NET = """m (float[N,4,6,6] x) => (float[N,5] y)
<float[24,4,3,3] w1, float[24] b1, float[24,4,3,3] w2, float[24] b2, float[24,5] w3, float[5] b3> {
    [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    [grouped] c = Conv <group = 6> (r, w2, b2)  s = Relu (c)
    g = GlobalAveragePool (s)  f = Flatten (g)
    [gemm] y = Gemm (f, w3, b3)
}"""
REPAIRED, OTHERS = ("conv", "gemm"), ("grouped",)
HEAD = f"{NO_COSTS},quantize-weights{{format=fixp4}},insert-lora{{rank=2,method=svd,keep=always}}"
SHORT = "epochs=6,learning-rate=0.2,batch=8"


@pytest.fixture(scope="module")
def net() -> Quantized:
    return quantized(NET, HEAD, calls=40)


def tuned(found: Quantized, options: str = SHORT, **context: object) -> tuple[LpGraph, PassReport]:
    graph, report, _ = learned(found, f"tune-factors{{{options}}}", **context)
    return graph, report


def noise(found: Quantized, graph: LpGraph) -> float:
    """Of the emitted model on samples that the training never saw, in the runtime."""
    emitted = Quantized(found.original, graph, found.context, {}).emitted()
    calls = found.context.calibration.judging  # type: ignore[union-attr]
    pairs = [[run_model(m, c)["y"].astype(np.float64) for m in (found.original, emitted)] for c in calls]
    return float(sum(np.square(a - b).sum() for a, b in pairs))


def test_codes_stay_and_the_emitted_model_comes_nearer(net: Quantized) -> None:
    graph, report = tuned(net)
    assert noise(net, graph) < 0.8 * noise(net, net.graph)
    assert report.metrics["spared_gain_db"] > 0
    assert report.metrics["main_codes_unchanged"] == 3
    for name, layer in graph.plan.layers.items():
        before = net.graph.plan.layers[name].tensor
        assert before is not None
        assert layer.tensor is not None
        np.testing.assert_array_equal(layer.tensor.codes, before.codes)
        assert layer.tensor.main.digest() == before.main.digest()
        assert layer.codes_sha256 == layer.tensor.digest()
        assert (layer.tensor.digest() != before.digest()) is (name in REPAIRED)
        assert layer.tensor.total_bits == before.total_bits
        assert layer.reason.endswith("factors trained" if name in REPAIRED else "bias trained beside factors")
    assert {s.node: s.reason for s in report.skips} == {"grouped": "it has no side path; its bias is trained"}


@pytest.mark.sweep
@pytest.mark.parametrize("select", ["kl", "margin", "entropy", "gradient", "random"])
def test_it_learns_from_some_samples(net: Quantized, select: str) -> None:
    graph, report = tuned(net, f"{SHORT},samples=12,select={select}")
    assert report.metrics["samples"] == 12
    assert report.metrics["samples_to_choose_from"] > 12
    assert noise(net, graph) < noise(net, net.graph)
    assert same_plan(graph, tuned(net, f"{SHORT},samples=12,select={select}")[0])


def test_other_samples_teach_other_factors(net: Quantized) -> None:
    by = [tuned(net, f"{SHORT},samples=12,select={select}")[0] for select in ("kl", "random")]
    assert not same_plan(*by)


def test_without_classes_samples_are_chosen_by_noise(net: Quantized) -> None:
    text = NET.replace("float[24,5] w3, float[5] b3", "float[24,1] w3, float[1] b3").replace("[N,5]", "[N,1]")
    found = quantized(text, HEAD, calls=40)
    _, _, ctx = learned(found, f"tune-factors{{{SHORT},samples=12}}")
    assert ctx.warnings == ["no output gives classes: samples are chosen by noise, not by kl"]


def test_what_is_no_better_on_spared_samples_is_not_kept(
    net: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        pass_class("tune-factors").run.__globals__, "gain_db", lambda _before, _after: (-0.25, 0.1)
    )
    graph, report = tuned(net)
    assert graph.plan is net.graph.plan
    assert not report.changes
    assert report.metrics["spared_gain_db"] == -0.25
    assert report.skips[-1].reason == (
        "the trained factors are no better on samples that took no part: all stays as it was"
    )


def test_spared_samples_are_neither_trained_on_nor_held(
    net: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    original = pass_class("tune-factors").run.__globals__["_gain"]

    def spy(training: object, best: object, spared: np.ndarray) -> dict[str, float]:
        seen.extend([training.train, training.held, spared])  # type: ignore[attr-defined]
        return dict(original(training, best, spared))

    monkeypatch.setitem(pass_class("tune-factors").run.__globals__, "_gain", spy)
    tuned(net)
    train, held, spared = (set(map(int, a)) for a in seen)
    assert len(spared) >= 3
    assert len(train | held | spared) == len(train) + len(held) + len(spared)


def test_layers_without_paths_are_left_alone() -> None:
    found = quantized(NET, f"{NO_COSTS},quantize-weights{{format=fixp4}}", calls=24)
    graph, report = tuned(found)
    assert same_plan(graph, found.graph)
    assert {s.node for s in report.skips} == {*REPAIRED, *OTHERS}


def test_without_samples_nothing_is_trained(net: Quantized) -> None:
    graph, report, ctx = learned(net, "tune-factors", calibration=None)
    assert same_plan(graph, net.graph)
    assert {s.reason for s in report.skips} == {"no calibration data to retrain on"}
    assert ctx.warnings == ["factors are not retrained: there is no calibration data"]
    bare = LpGraph.from_proto(parse_model(NET))
    assert not pass_class("tune-factors")().run(bare, PassContext()).changes


def test_a_checkpoint_goes_on(net: Quantized, tmp_path: Path) -> None:
    whole, _ = tuned(net, f"{SHORT},samples=16", checkpoint=tmp_path / "a")
    resumed, _ = tuned(net, f"{SHORT},samples=16", checkpoint=tmp_path / "a", resume=True)
    assert same_plan(whole, resumed)
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        tuned(net, f"{SHORT},samples=16", checkpoint=tmp_path / "a")


def test_a_network_without_gradients() -> None:
    text = NET.replace(
        "[gemm] y = Gemm (f, w3, b3)",
        """[gemm] h = Gemm (f, w3, b3)  z = Pad (h, pads)  k = Constant <value = int64[3] {-1, 3, 3}> ()
        m = Reshape (z, k)  d = Det (m)  q = Constant <value = int64[2] {-1, 1}> ()  e = Reshape (d, q)
        y = Add (h, e)""",
    ).replace("float[5] b3>", "float[5] b3, int64[4] pads = {0, 0, 0, 4}>")
    found = quantized(text, HEAD, calls=24)
    with pytest.raises(GradientError, match="operator Det has no gradient"):
        tuned(found)
    graph, report = tuned(found, f"{SHORT},required=false")
    assert same_plan(graph, found.graph)
    assert "it cannot be retrained: operator Det has no gradient" in {s.reason for s in report.skips}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("loss=cross-entropy", "option 'loss' is one of auto, kl, mse, kl-or-mse, not 'cross-entropy'"),
        ("select=best", "option 'select' is one of kl, margin, entropy, gradient, noise, random, not 'best'"),
        ("samples=-1", "option 'samples' is at least 0"),
        ("epochs=0", "option 'epochs' is at least 1"),
        ("batch=0", "option 'batch' is at least 1"),
        ("learning-rate=0", "option 'learning-rate' is positive"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: str, message: str) -> None:
    ((name, given),) = split_pipeline(f"tune-factors{{{options}}}")
    with pytest.raises(PassOptionError, match=message):
        pass_class(name).configured(given)


@pytest.mark.thorough
def test_from_end_to_end_and_from_the_decisions(tmp_path: Path) -> None:
    calls = [{"x": x[None]} for x in np.random.default_rng(3).normal(size=(40, 4, 6, 6)).astype(np.float32)]
    pipeline = f"{GRAPH_PASSES},{HEAD},tune-factors{{{SHORT},samples=16,select=margin}}"
    first = lpcompile.compile(parse_model(NET), passes=pipeline, target="ort", calibration=calls)
    (entry,) = [p for p in first.report["passes"] if p["name"] == "tune-factors"]
    assert entry["metrics"]["spared_gain_db"] > 0
    last = first.report["ledger"][-1]
    assert last["step"] == "tune-factors"
    assert last["gain_db"] > 0
    assert first.report["effort"]["learned_by"] == ["tune-factors"]
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(parse_model(NET), decisions=path, target="ort", calibration=calls)
    assert again.decisions == first.decisions
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert not [w for w in again.report["warnings"] if "decisions" in w]
