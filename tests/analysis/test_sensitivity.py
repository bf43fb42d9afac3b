"""The methods by name: each against its formula in numpy, or a rebuilt model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import lpcompile
from lpcompile.analysis.gradients import Head, Samples
from lpcompile.analysis.hessian import hessian_traces
from lpcompile.analysis.measured import Judge, measure_weights, with_fake_quantisers
from lpcompile.analysis.rounded_weights import WeightRounding
from lpcompile.analysis.sensitivity import Study, analyse, method_named
from lpcompile.errors import CalibrationError, InputError, ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from lpcompile.runtime.execution import observer
from lpcompile.runtime.patched import PatchedModel
from tests.support import Array, graph_of, parse_model

LINEAR = "linear (float[N,3] x) => (float[N,4] y) <float[3,4] w> { [fc] y = MatMul (x, w) }"
TWO_LAYERS = """
    two (float[N,3] x) => (float[N,4] y) <float[3,5] w, float[5,4] v> {
        [one] t = MatMul (x, w)  r = Relu (t)  [two] u = MatMul (r, v)  y = Softmax (u) }"""
X = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)


def observe(graph: LpGraph, tensors: Sequence[str]) -> object:
    return observer(graph, list(tensors), threads=1)


def study_of(text: str, **options: object) -> Study:
    graph = graph_of(text)
    layers = [n.name for n in graph.layers()]
    samples = Samples.of(graph, layers, observe, [{"x": X[:3]}, {"x": X[3:]}], options.pop("labels", None))  # type: ignore[arg-type]
    return Study(
        graph,
        layers,
        WeightRounding("int3"),
        samples,
        observe,  # type: ignore[arg-type]
        lambda g, names, outputs: PatchedModel(g, names, outputs, threads=1),
        **options,  # type: ignore[arg-type]
    )


def test_the_trace_of_a_quadratic_loss_is_exact_over_all_probes() -> None:
    """|x W - y0|^2 / 2 has the Hessian E[x x^T] once for each output: 4 times the mean of |x|^2."""
    study = study_of(LINEAR)
    head = Head("probe", ("y",))
    found = hessian_traces(study.graph, ["fc"], observe, study.samples, head, probes=50)["fc"]  # type: ignore[arg-type]
    exact = 4 * np.square(X.astype(np.float64)).sum(1).mean()
    assert abs(found.value - exact) < 3 * found.error
    assert found.error < 0.1 * exact
    one_column = graph_of("one (float[N,1] x) => (float[N,4] y) <float[1,4] w> { [fc] y = MatMul (x, w) }")
    calls = [{"x": X[:, :1]}]
    samples = Samples.of(one_column, ["fc"], observe, calls)  # type: ignore[arg-type]
    trace = hessian_traces(one_column, ["fc"], observe, samples, head, probes=2)["fc"]  # type: ignore[arg-type]
    np.testing.assert_allclose(
        trace.mean, 4 * np.square(X[:, 0]).mean(), rtol=1e-3
    )  # a diagonal one: any z is exact


@pytest.mark.thorough
def test_the_trace_behind_a_softmax_is_that_of_the_fisher_matrix() -> None:
    study = study_of(TWO_LAYERS)
    r = np.maximum(X.astype(np.float64) @ study.graph.value("w").values, 0)
    u = r @ study.graph.value("v").values
    p = np.exp(u) / np.exp(u).sum(-1, keepdims=True)
    exact = ((1 - np.square(p).sum(-1)) * np.square(r).sum(-1)).mean()  # tr(diag(p) - p p^T) |r|^2
    found = hessian_traces(study.graph, ["two"], observe, study.samples, study.head, probes=50)["two"]  # type: ignore[arg-type]
    assert abs(found.value - exact) < 3 * found.error + 1e-3 * exact


def test_gradient_diagonal_and_propagated_follow_their_formulas() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1])
    study = study_of(TWO_LAYERS, loss="labels", labels=labels)
    found = analyse(study, ["gradient", "fisher-diagonal", "propagated"]).weights
    r = np.maximum(X.astype(np.float64) @ study.graph.value("w").values, 0)
    u = r @ study.graph.value("v").values
    delta = np.exp(u) / np.exp(u).sum(-1, keepdims=True) - np.eye(4)[labels]
    g, e = delta[:, :, None] * r[:, None, :], study.errors["two"].astype(np.float64)
    expected = {
        "gradient": np.abs(g).mean() * np.linalg.norm(e) / np.sqrt(e.size),
        "fisher-diagonal": 0.5 * (np.square(g).mean(0) * np.square(e)).sum(),
        "propagated": 0.5 * (np.square(r @ e.T).mean(0) * np.square(delta).mean(0)).sum(),
    }
    for method, value in expected.items():
        np.testing.assert_allclose(found[method]["two"].value, value, rtol=1e-4)


def test_measuring_gives_what_a_rebuilt_model_gives() -> None:
    labels = np.array([0, 1, 2, 3, 0, 1])
    study = study_of(TWO_LAYERS, labels=labels)
    found = analyse(study, ["measured"]).weights
    before = softmax(X, *(study.graph.value(n).values for n in "wv"))
    for layer, changed in (("one", "w"), ("two", "v")):
        weights = {n: study.graph.value(n).values.astype(np.float64) for n in "wv"}
        weights[changed] = weights[changed] + study.errors[layer].T
        after = softmax(X, weights["w"], weights["v"])
        kl = (before * np.log(before / after)).sum(-1)
        np.testing.assert_allclose(found["measured kl"][layer].value, kl.mean(), rtol=1e-3, atol=1e-7)
        noise = np.square(after - before).sum(-1) / np.square(before).sum(-1).mean()
        np.testing.assert_allclose(found["measured noise"][layer].value, noise.mean(), rtol=1e-3, atol=1e-7)
        loss = np.log(before / after)[np.arange(6), labels]
        np.testing.assert_allclose(found["measured loss"][layer].value, loss.mean(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            found["measured kl"][layer].error, kl.std(ddof=1) / np.sqrt(6), rtol=1e-2, atol=1e-7
        )


def softmax(x: Array, w: Array, v: Array) -> Array:
    u = np.maximum(x.astype(np.float64) @ w, 0) @ v
    return np.asarray(np.exp(u) / np.exp(u).sum(-1, keepdims=True))


PLAN = ActivationPlan("uint4", 0.1, 3, "t")


def test_one_activation_at_a_time_is_rounded_where_it_is_chosen() -> None:
    graph = graph_of(TWO_LAYERS)
    changed, chosen = with_fake_quantisers(graph, {"t": PLAN, "r": replace(PLAN, scale=0.3, zero_point=0)})
    run = observer(changed, ["y"], threads=1)
    w, v = (graph.value(n).values.astype(np.float64) for n in "wv")
    t = X.astype(np.float64) @ w
    rounded = 0.1 * np.clip(np.rint(t / 0.1), -3, 12)
    expected = [np.maximum(rounded, 0) @ v, 0.3 * np.clip(np.rint(np.maximum(t, 0) / 0.3), 0, 15) @ v]
    expected.append(np.maximum(t, 0) @ v)  # nothing is chosen
    for i, u in enumerate(expected):
        found = run({"x": X, chosen: np.asarray(i, np.int64)})["y"]
        np.testing.assert_allclose(found, np.exp(u) / np.exp(u).sum(-1, keepdims=True), rtol=1e-4)


def test_activations_score_the_square_of_gradient_times_rounding_error() -> None:
    study = study_of(TWO_LAYERS, activations={"r": replace(PLAN, zero_point=0)}, draws=4)
    found = analyse(study, ["fisher", "measured"]).activations
    w, v = (study.graph.value(n).values.astype(np.float64) for n in "wv")
    r = np.maximum(X.astype(np.float64) @ w, 0)
    p = softmax(X, w, v)
    du = (0.1 * np.clip(np.rint(r / 0.1), 0, 15) - r) @ v
    exact = 0.5 * ((p * du**2).sum(-1) - (p * du).sum(-1) ** 2).mean()
    np.testing.assert_allclose(found["fisher"]["r"].value, exact, rtol=1e-3)
    np.testing.assert_allclose(found["measured kl"]["r"].value, exact, rtol=0.2)  # second order of it


def test_a_graph_without_gradients_is_measured_with_a_warning_that_names_the_node() -> None:
    study = study_of(
        "none (float[N,3] x) => (float[N] y) <float[3,4] w, int64[3] s = {-1, 2, 2}> "
        "{ [fc] t = MatMul (x, w)  u = Reshape (t, s)  [odd] y = Det (u) }"
    )
    found = analyse(study, ["fisher", "hessian"])
    assert list(found.weights) == ["measured noise"]
    assert found.warnings[0].startswith("fisher: no gradient (odd: operator Det has no gradient)")


def test_control_flow_is_measured_too() -> None:
    study = study_of(
        "flow (float[N,3] x) => (float[N,4] y) <float[3,4] w, bool c = {1}> { [fc] t = MatMul (x, w) "
        "[choice] y = If (c) <then_branch = a () => (float[N,4] p) { p = Relu (t) }, "
        "else_branch = b () => (float[N,4] q) { q = Neg (t) }> }"
    )
    found = analyse(study, ["fisher"])
    assert "measured kl" in found.weights
    assert "operator If" in found.warnings[0]


def test_methods_go_by_their_names_and_by_the_papers_labels() -> None:
    assert [method_named(t) for t in ("s1", "S2", "s3", "s4", " propagated ")] == [
        "gradient", "fisher", "hessian", "measured", "propagated",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no sensitivity method 'taylor'"):
        method_named("taylor")


def test_labels_for_an_output_without_classes_are_refused() -> None:
    graph = graph_of("flat (float[N,3] x) => (float[N,1] y) <float[3,1] w> { y = MatMul (x, w) }")
    with pytest.raises(CalibrationError, match="no output gives classes"):
        Judge(observer(graph, ["y"], threads=1), [{"x": X}], ["y"], labels=[np.zeros(6, np.int64)])


def test_old_operators_cannot_measure_activations() -> None:
    graph = LpGraph.from_proto(parse_model(LINEAR, opset=11))
    with pytest.raises(ModelError, match="opset 11 is too old"):
        with_fake_quantisers(graph, {})


def test_a_layer_that_keeps_its_weights_costs_nothing() -> None:
    study = study_of(TWO_LAYERS)
    own = {n: study.graph.node(n).inputs[1].values for n in study.layers}  # type: ignore[union-attr]
    found = measure_weights(study.judge, study.graph, own, study.open_patched)
    assert all(m.noise.value == 0 for m in found.values())


def test_a_layer_with_shared_weights_is_measured_alone() -> None:
    """Against a rebuilt model in which only one of the two readers has other weights."""
    study = study_of("""
        tied (float[N,3] x) => (float[N,3] y) <float[3,3] w> {
            [one] t = MatMul (x, w)  r = Relu (t)  [two] y = MatMul (r, w) }""")
    w = study.graph.value("w").values.astype(np.float64)
    other = study.rounded_weight("two")
    found = measure_weights(study.judge, study.graph, {"two": other}, study.open_patched)["two"]
    hidden = np.maximum(X @ w, 0)
    wanted, changed = hidden @ w, hidden @ other
    noise = np.square(changed - wanted).sum(1).mean() / np.square(wanted).sum(1).mean()
    assert found.noise.value == pytest.approx(noise, rel=1e-4)


def test_outputs_that_are_no_numbers_are_left_out() -> None:
    graph = graph_of("log (float[N,1] x) => (float[N,2] y) <float[1,2] w> { t = MatMul (x, w)  y = Log (t) }")
    x = np.array([[1.0], [0.0], [2.0]], np.float32)  # log 0 is infinite
    judge = Judge(observer(graph, ["y"], threads=1), [{"x": x}], ["y"], per_sample=False)
    assert np.isfinite(judge.measure(observer(graph, ["y"], threads=1)).noise.value)
    base = judge.measure(lambda _: {"y": np.full((3, 2), np.nan, np.float32)})
    assert base.noise.value == pytest.approx(1)  # as if all were lost


def test_what_is_no_matrix_is_named_not_analysed() -> None:
    text = """m (float[2,N,3] x) => (float[2,N,4] y) <float[2,3,5] w, float[5,4] v> {
        [a] t = MatMul (x, w)  [b] y = MatMul (t, v) }"""
    samples = [{"x": np.random.default_rng(i).normal(size=(2, 3, 3)).astype(np.float32)} for i in range(3)]
    found = lpcompile.analyze(parse_model(text), samples, threads=1)
    assert [layer["name"] for layer in found["layers"]] == ["b"]
    assert any("no float32 matrix, or none: a" in w for w in found["warnings"])


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_models_of_other_float_types_are_analysed(kind: str) -> None:
    text = f"""m ({kind}[N,3] x) => ({kind}[N,4] y) <{kind}[3,4] u> {{
        xf = Cast <to=1> (x)  w = Cast <to=1> (u)  t = MatMul (xf, w)  r = Relu (t)
        z = Cast <to={10 if kind == "float16" else 11}> (r)  y = Add (z, z) }}"""
    dtype = np.float16 if kind == "float16" else np.float64
    found = lpcompile.analyze(
        parse_model(text), [{"x": X.astype(dtype)}], threads=1, methods=("fisher", "hessian")
    )
    assert len(found["layers"]) == 1
    assert all(v > 0 for v in found["layers"][0]["scores"].values())


def test_the_first_input_may_be_a_scalar() -> None:
    text = "m (float s, float[N,3] x) => (float[N,4] y) <float[3,4] w> { a = Mul (x, s)  [fc] y = MatMul (a, w) }"
    found = lpcompile.analyze(parse_model(text), [{"s": np.float32(2), "x": X}], threads=1)
    assert found["per_sample_gradients"]
    assert found["layers"][0]["scores"]["fisher"] > 0
