"""`reconstruct-blocks`: blocks come nearer to the float model, the same again gives the same codes; skip reasons."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpcompile.errors import InputError, OutputError, PassOptionError
from lpcompile.ir.graph import LpGraph
from lpcompile.passes import reconstructed_block
from lpcompile.passes.reconstructed_block import NOT_BETTER
from lpcompile.pipeline import PassContext
from lpcompile.records import PassReport
from lpcompile.registry import pass_class, split_pipeline
from lpcompile.tuning.training import split_held
from tests.quantizing import Quantized, learned, rounded, same_plan
from tests.support import run_model

CNN = """m (float[N,3,6,6] x) => (float[N,5] y)
<float[4,3,3,3] w0, float[4] b0, float[4,4,3,3] w1, float[4,4,3,3] w2, float[4,5] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (r, w1)
    c = Relu (b)
    d = Conv <pads = [1, 1, 1, 1]> (c, w2)
    s = Add (d, r)
    t = Relu (s)
    p = GlobalAveragePool (t)
    f = Flatten (p)
    z = Gemm (f, w3, b3)
    y = Softmax (z)
}"""
FIXED = """m (float[4,16] x) => (float[4,6] y) <float[16,12] w1, float[12] b1, float[12,6] w2> {
    h = Gemm (x, w1, b1)
    r = Relu (h)
    y = MatMul (r, w2)
}"""
SHORT = "iterations=24,batch=8,learning-rate=0.04"
SLOW = "iterations=60,batch=8"


def reconstructed(
    found: Quantized, options: str = SHORT, **context: object
) -> tuple[LpGraph, PassReport, PassContext]:
    """A copy of the graph after reconstruction, the report, and what was asked."""
    return learned(found, f"reconstruct-blocks{{{options}}}", **context)


@pytest.fixture(scope="module")
def cnn() -> Quantized:
    return rounded(CNN)


@pytest.fixture(scope="module")
def narrow() -> Quantized:
    return rounded(CNN, activations="uint4")


def gains(report: PassReport) -> list[float]:
    """In dB, of blocks that were tried."""
    metrics = report.metrics
    return [
        metrics[k.replace("before", "after")] - metrics[k]
        for k in sorted(metrics)
        if k.endswith("_before_db")
    ]


def output_error(found: Quantized, graph: LpGraph) -> float:
    """Of the logits' softmax over all calls, in the compiled model."""
    emitted, total = replace(found, graph=graph).emitted(), 0.0
    for feeds in found.context.calibration.calls:  # type: ignore[union-attr]
        p, q = (run_model(m, feeds)["y"].astype(np.float64) for m in (found.original, emitted))
        total += float(np.square(p - q).sum())
    return total


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("options", "least"),
    [
        (f"{SLOW},learning-rate=0.02", 0.4),
        ("iterations=24,batch=8,learning-rate=0.03,pull=50,method=adaround", 0.3),
    ],
)
@pytest.mark.parametrize("loss", ["fisher", "mse"])
def test_blocks_come_nearer_to_the_float_model(cnn: Quantized, options: str, least: float, loss: str) -> None:
    graph, report, ctx = reconstructed(cnn, f"{options},loss={loss}")
    assert not ctx.warnings
    assert len(gains(report)) == 2
    assert min(gains(report)) >= 0
    assert max(gains(report)) > least
    assert output_error(cnn, graph) < output_error(cnn, cnn.graph)
    changed = {c.node for c in report.changes}
    for name, layer in graph.plan.layers.items():
        before = cnn.graph.plan.layers[name]
        assert layer.tensor is not None
        assert layer.codes_sha256 == layer.tensor.digest()
        assert (layer.codes_sha256 != before.codes_sha256) <= (name in changed)
        assert ("reconstructed" in layer.reason) == (name in changed)


@pytest.mark.sweep
@pytest.mark.parametrize("fmt", ["posit4", "float4_e2m1fn"])
@pytest.mark.parametrize("method", ["ste", "adaround,pull=50"])
def test_levels_need_not_be_equally_spaced(fmt: str, method: str) -> None:
    _, report, _ = reconstructed(rounded(CNN, fmt), f"{SLOW},learning-rate=0.04,method={method}")
    assert max(gains(report)) > 0


def test_integer_groups_stay_what_they_are() -> None:
    found = rounded(CNN, granularity="group")
    graph, report, _ = reconstructed(found)
    assert max(gains(report)) > 0
    for name, layer in graph.plan.layers.items():
        before = found.graph.plan.layers[name].tensor
        assert layer.tensor is not None
        assert before is not None
        assert layer.tensor.has_integer_groups == before.has_integer_groups


def test_blocks_that_came_nearer_are_undone_where_the_network_lost(
    narrow: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block minds its own outputs: whether the network lost is measured apart (and here said)."""
    monkeypatch.setattr("lpcompile.passes.keep_if_better.gain_db", lambda *_: (-1.25, 0.5))
    graph, report, _ = reconstructed(narrow, SLOW)
    assert min(gains(report)) > 0
    assert [s.reason for s in report.skips] == ["the network lost 1.25 dB on the samples: codes stay"]
    assert not report.changes
    assert same_plan(graph, narrow.graph)


@pytest.mark.thorough
def test_ranges_of_narrow_activations_are_learned(narrow: Quantized) -> None:
    graph, _, _ = reconstructed(narrow, "iterations=60,batch=8")
    old, new = narrow.graph.plan.activations, graph.plan.activations
    moved = {t for t in new if new[t].scale != old[t].scale}
    assert {t: new[t].start for t in moved} == {t: old[t].scale for t in moved}
    assert moved
    assert all(old[t].code_max < 255 and "learned" in new[t].rule for t in moved)
    for tensor, plan in new.items():
        assert plan.zero_point == old[tensor].zero_point
        assert np.float32(plan.scale) == plan.scale, "a float32 value, exactly"
        same = {new[t].scale for t in new if new[t].tie_group == plan.tie_group}
        assert same == {plan.scale}
    fixed, _, _ = reconstructed(narrow, f"{SLOW},ranges=fixed")
    assert dict(fixed.plan.activations) == dict(old)


@pytest.mark.parametrize("activations", ["uint8", "uint4"])
def test_the_emitted_model_has_the_error_that_is_reported(activations: str) -> None:
    found = rounded(FIXED, activations=activations, then=",correct-bias")
    graph, report, _ = reconstructed(found, "iterations=20,batch=32,loss=mse")
    calls = found.context.calibration.deciding  # type: ignore[union-attr]
    _, held = split_held(len(calls))
    emitted = replace(found, graph=graph).emitted()
    wanted = [run_model(found.original, feeds)["y"].astype(np.float64) for feeds in calls]
    error = [np.square(run_model(emitted, calls[i])["y"] - wanted[i]).sum() for i in held]
    signal = np.mean([np.square(y).sum() for y in wanted])
    assert report.metrics["block_000_after_db"] > report.metrics["block_000_before_db"]
    assert report.metrics["block_000_after_db"] == pytest.approx(
        10 * np.log10(signal / np.mean(error)), abs=0.02
    )


@pytest.mark.thorough
def test_the_same_again_gives_the_same_plan(narrow: Quantized) -> None:
    (one, first, _), (two, second, _) = reconstructed(narrow), reconstructed(narrow)
    assert same_plan(one, two)
    assert not same_plan(one, narrow.graph)
    assert gains(first) == gains(second)
    other, _, _ = reconstructed(narrow, seed=1)
    assert not same_plan(one, other), "batches and drops come from the seed"


@pytest.mark.thorough
def test_a_second_run_never_loses(narrow: Quantized) -> None:
    once, first, _ = reconstructed(narrow)
    _, again, _ = reconstructed(replace(narrow, graph=once))
    assert min(gains(again)) >= 0
    kept = [k for k in first.metrics if k.endswith("_after_db")]
    assert again.metrics["block_000_before_db"] == pytest.approx(
        first.metrics["block_000_after_db"], abs=1e-3
    )
    assert len(kept) == 2


class Interrupted(Exception):
    """The process ends."""


@pytest.mark.thorough
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(narrow: Quantized, tmp_path: Path) -> None:
    whole, report, _ = reconstructed(narrow, checkpoint=tmp_path / "whole")

    def stop(_what: str, done: int, total: int) -> None:
        if done > total // 2 + 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        reconstructed(narrow, checkpoint=tmp_path / "broken", progress=stop)
    assert [p.name for p in (tmp_path / "broken" / "blocks").iterdir()] == ["epoch-00001.npz"]
    resumed, again, _ = reconstructed(narrow, checkpoint=tmp_path / "broken", resume=True)
    assert same_plan(whole, resumed)
    assert gains(again) == gains(report)
    assert [c.node for c in again.changes] == [c.node for c in report.changes]
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        reconstructed(narrow, checkpoint=tmp_path / "broken")
    with pytest.raises(InputError, match="another batch: 8, now 4"):
        reconstructed(
            narrow, SHORT.replace("batch=8", "batch=4"), checkpoint=tmp_path / "broken", resume=True
        )


def test_samples_of_fixed_batches_are_calls() -> None:
    _, report, _ = reconstructed(rounded(FIXED), "iterations=30,batch=4")
    assert report.metrics["block_000_samples"] == 21, "calls"
    assert max(gains(report)) > 0


def test_fewer_samples_where_they_take_much_memory(cnn: Quantized) -> None:
    graph = cnn.graph.copy()
    chosen = pass_class("reconstruct-blocks").configured({"iterations": "2", "samples-mb": "1"})
    report = chosen.run(graph, replace(cnn.context, warnings=[]))
    assert report.metrics["block_000_samples"] == 42, "small ones fit"


def test_a_block_that_does_not_get_better_stays(cnn: Quantized) -> None:
    graph, report, _ = reconstructed(cnn, "iterations=1,learning-rate=50")
    assert {s.reason for s in report.skips} == {NOT_BETTER}
    assert same_plan(graph, cnn.graph)


def test_without_samples_nothing_is_learned(cnn: Quantized) -> None:
    graph, report, ctx = reconstructed(cnn, calibration=None)
    assert same_plan(graph, cnn.graph)
    assert {s.reason for s in report.skips} == {"no calibration data to learn from"}
    assert ctx.warnings


def test_codes_that_cannot_be_learned_are_named() -> None:
    found = rounded(FIXED, fmt="lut4")
    graph, report, _ = reconstructed(found)
    reasons = {s.reason for s in report.skips}
    assert reasons <= {"its codebooks were fitted to its weights", NOT_BETTER}
    assert set(graph.plan.layers) == set(found.graph.plan.layers)


def test_an_operator_without_gradient_stops_its_block_only() -> None:
    found = rounded(
        """m (float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b, float[4,4] v> {
            h = Gemm (x, w, b)
            k = Constant <value = int64[3] {2, 2, 2}> ()
            m = Reshape (h, k)
            d = Det (m)
            e = Constant <value = int64[2] {2, 1}> ()
            c = Reshape (d, e)
            s = Add (h, c)
            y = MatMul (s, v)
        }"""
    )
    _, report, ctx = reconstructed(found)
    assert not ctx.warnings
    assert {s.node for s in report.skips if "Det has no gradient" in s.reason} == set(found.graph.plan.layers)
    _, report, ctx = reconstructed(found, f"{SHORT},joined=1")
    assert any("plain squared error: operator Det has no gradient" in w for w in ctx.warnings)
    assert max(gains(report)) > 0


def test_control_flow_stops_its_block() -> None:
    found = rounded(
        """m (float[N,4] x, bool flag) => (float[N,4] y) <float[4,4] w0, float[4] b0, float[4,4] w1> {
            a = Gemm (x, w0, b0)
            b = If (flag) <
                then_branch = t () => (float[N,4] p) { p = Relu (a) },
                else_branch = e () => (float[N,4] q) { q = Neg (a) }
            >
            y = MatMul (b, w1)
        }"""
    )
    _, report, _ = reconstructed(found)
    assert {s.reason for s in report.skips} == {"control flow runs in its block"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("method=magic", "'method' is one of ste, adaround"),
        ("ranges=wide", "'ranges' is one of"),
        ("loss=kl", "'loss' is one of"),
        ("iterations=0", "'iterations' is at least 1"),
        ("drop=1", "'drop' is a share below 1"),
        ("learning-rate=0", "'learning-rate' is positive"),
        ("pull=-1", "'pull' is not negative"),
    ],
)
def test_options_are_checked(option: str, message: str) -> None:
    ((name, given),) = split_pipeline(f"reconstruct-blocks{{{option}}}")
    with pytest.raises(PassOptionError, match=message):
        pass_class(name).configured(given)


@pytest.mark.thorough
@pytest.mark.parametrize(("room", "wanted"), [(1, 1), (10 << 20, 8)])
def test_a_step_takes_fewer_samples_where_their_tensors_are_large(
    cnn: Quantized, monkeypatch: pytest.MonkeyPatch, room: int, wanted: int
) -> None:
    monkeypatch.setattr(reconstructed_block, "WORK_BYTES", room)
    _, report, _ = reconstructed(cnn, "iterations=4,batch=8")
    found = {v for k, v in report.metrics.items() if k.endswith("_batch")}
    assert found == {wanted}
