"""`tune-weights`: the loss falls, the same again gives the same codes, and what cannot be trained is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.errors import CalibrationError, GradientError, InputError, OutputError, PassOptionError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_constants import with_planned_constants
from lpcompile.pipeline import PassContext
from lpcompile.records import PassReport
from lpcompile.registry import pass_class, split_pipeline
from lpcompile.runtime.execution import observer
from tests.quantizing import Quantized, learned, rounded, same_plan
from tests.support import Array, parse_model, run_model

CNN = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[6,3,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6,5] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2)
    s = Add (c, r)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    z = Gemm (f, w3, b3)
    y = Softmax (z)
}"""
MLP = """m (float[4,16] x) => (float[4,6] y) <float[16,12] w1, float[12] b1, float[12,6] w2> {
    h = Gemm (x, w1, b1)
    r = Relu (h)
    y = MatMul (r, w2)
}"""
NORM = """m (float[N,4,6,6] x) => (float[N,3,6,6] y)
<float[4] scale, float[4] beta, float[4] mean = {0.4, 0.4, 0.4, 0.4}, float[4] var = {0.34, 0.34, 0.34, 0.34},
 float[3,4,1,1] w> {
    r = Relu (x)
    n = BatchNormalization (r, scale, beta, mean, var)
    q = Relu (n)
    y = Conv (q, w)
}"""
SHORT = "epochs=4,learning-rate=0.006,batch=8"


def tuned(found: Quantized, options: str = SHORT, **context: object) -> tuple[LpGraph, PassReport]:
    """A copy of the graph after retraining, and the report."""
    graph, report, _ = learned(found, f"tune-weights{{{options}}}", **context)
    return graph, report


@pytest.fixture(scope="module")
def cnn() -> Quantized:
    return rounded(CNN)


@pytest.mark.sweep
@pytest.mark.parametrize("estimator", ["ste", "tanh", "linear", "lsq"])
@pytest.mark.parametrize("fmt", ["fixp4", "posit4"])
def test_the_loss_falls_with_every_estimator(fmt: str, estimator: str) -> None:
    found = rounded(CNN, fmt)
    graph, report = tuned(found, f"{SHORT},estimator={estimator}")
    metrics = report.metrics
    assert metrics["loss_held_after"] < metrics["loss_held_before"]
    assert metrics["loss_train_after"] < 0.8 * metrics["loss_train_before"]
    assert metrics["changed_codes_share"] > 0
    for name, layer in graph.plan.layers.items():
        before = found.graph.plan.layers[name]
        assert before.tensor is not None
        assert layer.tensor is not None
        assert layer.codes_sha256 == layer.tensor.digest()
        assert layer.tensor.format == before.tensor.format
        assert "retrained" in layer.reason
        learned = estimator == "lsq"
        same = np.array_equal(np.asarray(layer.tensor.scales), np.asarray(before.tensor.scales))
        assert same != learned, "scales are learned by lsq alone"


@pytest.mark.thorough
def test_the_compiled_model_is_nearer_to_the_float_model(cnn: Quantized) -> None:
    graph, _ = tuned(cnn, "epochs=8,learning-rate=0.02,batch=8")
    after = Quantized(cnn.original, graph, cnn.context, {})

    def divergence(model: Quantized) -> float:
        emitted, total = model.emitted(), 0.0
        for feeds in cnn.context.calibration.deciding:  # type: ignore[union-attr]
            p, q = (run_model(m, feeds)["y"].astype(np.float64) for m in (cnn.original, emitted))
            total += float((p * np.log(p / q)).sum())
        return total

    assert divergence(after) < 0.7 * divergence(cnn)


@pytest.mark.sweep
@pytest.mark.parametrize("text", [CNN, MLP])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("activations", ["uint8", "uint4"])
def test_every_granularity_and_activation_width_trains(text: str, granularity: str, activations: str) -> None:
    _, report = tuned(rounded(text, granularity=granularity, activations=activations))
    assert report.metrics["loss_held_after"] < report.metrics["loss_held_before"]


def test_ranges_of_narrow_activations_are_trained_if_asked_for() -> None:
    found = rounded(CNN, activations="uint4")
    old = found.graph.plan.activations
    fixed, _ = tuned(found)
    assert dict(fixed.plan.activations) == dict(old)
    graph, report = tuned(found, f"{SHORT},ranges=narrow")
    assert report.metrics["loss_held_after"] < report.metrics["loss_held_before"]
    new = graph.plan.activations
    moved = {t for t in new if new[t].scale != old[t].scale}
    assert moved
    assert moved <= {t for t in old if old[t].code_max < 255}
    assert moved <= {c.node for c in report.changes if c.what == "range retrained"}
    assert all(len({new[t].scale for t in new if new[t].tie_group == p.tie_group}) == 1 for p in new.values())


def test_the_same_again_gives_the_same_plan_and_model(cnn: Quantized) -> None:
    (one, first), (two, second) = tuned(cnn), tuned(cnn)
    assert same_plan(one, two)
    assert not same_plan(one, cnn.graph)
    assert {k: v for k, v in first.metrics.items() if "seconds" not in k} == {
        k: v for k, v in second.metrics.items() if "seconds" not in k
    }
    other, _ = tuned(cnn, seed=1)
    assert not same_plan(one, other), "the order of samples comes from the seed"


def test_samples_of_fixed_batches_are_gathered_to_a_step() -> None:
    _, report = tuned(rounded(MLP), "epochs=1,batch=16")
    assert report.metrics["samples"] == 19, "calls, of 22 that decide, less those held out"
    assert report.metrics["steps"] == 5


class Interrupted(Exception):
    """The process ends."""


@pytest.mark.thorough
@pytest.mark.parametrize("optimiser", ["adam", "nesterov"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    cnn: Quantized, tmp_path: Path, optimiser: str
) -> None:
    options = f"epochs=4,batch=8,learning-rate=0.02,optimiser={optimiser},estimator=lsq"
    whole, report = tuned(cnn, options, checkpoint=tmp_path / "whole")
    steps = int(report.metrics["steps"])

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("retraining") and done > steps // 2 + 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        tuned(cnn, options, checkpoint=tmp_path / "broken", progress=stop)
    assert [p.name for p in (tmp_path / "broken").iterdir()] == ["epoch-00002.npz"]
    resumed, again = tuned(cnn, options, checkpoint=tmp_path / "broken", resume=True)
    assert same_plan(whole, resumed)
    assert again.metrics["loss_held_after"] == report.metrics["loss_held_after"]
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        tuned(cnn, options, checkpoint=tmp_path / "broken")
    with pytest.raises(InputError, match="another batch: 8, now 4"):
        tuned(cnn, options.replace("batch=8", "batch=4"), checkpoint=tmp_path / "broken", resume=True)
    with pytest.raises(InputError, match="another model"):
        tuned(rounded(CNN, fmt="posit4"), options, checkpoint=tmp_path / "broken", resume=True)


def test_resuming_needs_a_folder(cnn: Quantized) -> None:
    with pytest.raises(OutputError, match="nothing to resume from"):
        tuned(cnn, resume=True)


def test_a_start_that_nothing_beats_is_kept(cnn: Quantized) -> None:
    graph, report = tuned(cnn, "epochs=1,learning-rate=50")
    assert report.metrics["best_epoch"] == 0
    assert same_plan(graph, cnn.graph)
    assert {s.reason for s in report.skips} == {"retraining did not lower the loss on held-out samples"}


def labelled(found: Quantized, labels: list[Array]) -> Calibration:
    assert found.context.calibration is not None
    return replace(found.context.calibration, labels=labels)


@pytest.mark.thorough
def test_labels_are_learned(cnn: Quantized) -> None:
    calls = cnn.context.calibration.calls  # type: ignore[union-attr]
    labels = [np.full(len(c["x"]), 3) for c in calls]
    graph, _ = tuned(
        cnn,
        "epochs=8,learning-rate=0.02,batch=8,loss=cross-entropy",
        calibration=labelled(cnn, labels),
    )
    model = Quantized(cnn.original, graph, cnn.context, {}).emitted()
    before = np.mean([run_model(cnn.emitted(), c)["y"][:, 3].mean() for c in calls])
    after = np.mean([run_model(model, c)["y"][:, 3].mean() for c in calls])
    assert after > before + 0.1


def test_labels_that_are_missing_or_out_of_range_are_refused(cnn: Quantized) -> None:
    calls = cnn.context.calibration.calls  # type: ignore[union-attr]
    with pytest.raises(CalibrationError, match="needs labels"):
        tuned(cnn, "loss=cross-entropy")
    with pytest.raises(CalibrationError, match=r"label 9 is out of range 0\.\.4"):
        tuned(cnn, "loss=cross-entropy", calibration=labelled(cnn, [np.full(len(c["x"]), 9) for c in calls]))


@pytest.mark.parametrize(
    ("batchnorm", "wanted"), [("frozen", [True, True, False, False]), ("off", [False] * 4)]
)
def test_norms_that_stayed_in_the_graph(batchnorm: str, wanted: list[bool]) -> None:
    found = rounded(NORM)
    assert found.graph.nodes("BatchNormalization")
    graph, report = tuned(found, f"{SHORT},batchnorm={batchnorm}")
    assert report.metrics["best_epoch"] > 0
    (old,) = found.graph.nodes("BatchNormalization")
    for made, moved in ((with_planned_constants(graph), wanted), (graph, [False] * 4)):
        (new,) = made.nodes("BatchNormalization")
        assert moved == [
            not np.array_equal(a.values, b.values)
            for a, b in zip(old.inputs[1:], new.inputs[1:], strict=True)
            if a is not None and b is not None
        ], "the float graph keeps its own"


def test_statistics_follow_the_batches(tmp_path: Path) -> None:
    found = rounded(NORM)
    _, report = tuned(found, f"{SHORT},batchnorm=batch", checkpoint=tmp_path)
    (node,) = found.graph.nodes("BatchNormalization")
    with np.load(next(tmp_path.glob("*.npz"))) as state:
        for role, i in (("mean", 3), ("variance", 4)):
            stored = node.inputs[i]
            assert stored is not None
            running = state[f"values|{node.name}/{role}"]
            assert not np.array_equal(running, stored.values)
            np.testing.assert_allclose(running, stored.values, rtol=0.3, err_msg="of the same distribution")
    assert report.metrics["steps"] == 20


def test_without_samples_nothing_is_trained(cnn: Quantized) -> None:
    graph, report = tuned(cnn, calibration=None)
    assert same_plan(graph, cnn.graph)
    assert {s.reason for s in report.skips} == {"no calibration data to retrain on"}


def test_an_operator_without_gradient_is_named() -> None:
    found = rounded(
        """m (float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b, float[4,1] v> {
            h = Gemm (x, w, b)
            k = Constant <value = int64[3] {2, 2, 2}> ()
            m = Reshape (h, k)
            d = Det (m)
            e = Constant <value = int64[2] {2, 1}> ()
            c = Reshape (d, e)
            y = Add (h, c)
        }"""
    )
    with pytest.raises(GradientError, match="operator Det has no gradient") as caught:
        tuned(found)
    assert "leave the pass out that retrains" in (caught.value.hint or "")


def test_a_gradient_that_is_not_finite_names_its_layer_and_leaves_the_plan(cnn: Quantized) -> None:
    def observe(graph: LpGraph, tensors: object) -> object:
        run = observer(graph, tensors, threads=1)  # type: ignore[arg-type]
        nodes = {n.name for n in graph.nodes()}

        def spoiled(feeds: object) -> dict[str, Array]:
            found = run(feeds)  # type: ignore[arg-type]
            if any(name.startswith("gradient/") for name in nodes):
                worst = max(found, key=lambda k: found[k].ndim)
                found[worst] = found[worst] * np.float32(np.nan)
            return found

        return spoiled

    before = cnn.graph.copy()
    with pytest.raises(GradientError, match="the gradient of its weight is not finite") as caught:
        tuned(cnn, observe=observe)
    assert caught.value.where in {n.name for n in cnn.graph.layers()}
    assert same_plan(before, cnn.graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("estimator=relu", "option 'estimator' is one of auto, ste, tanh, linear, lsq, not 'relu'"),
        ("optimiser=lion", "option 'optimiser' is one of adam, sgd, nesterov"),
        ("schedule=step", "option 'schedule' is one of cosine, constant"),
        ("loss=hinge", "option 'loss' is one of auto, kl, mse, kl-or-mse, cross-entropy"),
        ("epochs=0", "option 'epochs' is at least 1"),
        ("learning-rate=-1", "option 'learning-rate' is not negative"),
        ("steepness=0", "option 'steepness' is positive"),
        ("batchnorm=on", "option 'batchnorm' is one of frozen, batch, off"),
        ("rate=1", "has no option 'rate'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: str, message: str) -> None:
    ((name, given),) = split_pipeline(f"tune-weights{{{options}}}")
    with pytest.raises(PassOptionError, match=message):
        pass_class(name).configured(given)


def test_a_context_without_observer_is_that_of_unit_tests() -> None:
    graph = LpGraph.from_proto(parse_model(MLP))
    report = pass_class("tune-weights")().run(graph, PassContext())
    assert not report.changes
