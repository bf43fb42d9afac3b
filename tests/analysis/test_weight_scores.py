"""Errors of weights scored by gradients, against the formulas written out in numpy."""

from collections.abc import Mapping

import numpy as np
import pytest

from lpcompile.analysis.gradients import Head, Samples, balanced_signs, choose_head, hadamard
from lpcompile.analysis.scores import Score
from lpcompile.analysis.weight_scores import LayerErrors, score_weight_errors
from lpcompile.errors import CalibrationError, GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from tests.support import Array, graph_of

CLASSIFIER = """
    classifier (float[N,3] x) => (float[N,4] y) <float[3,4] w> { [fc] t = MatMul (x, w)  y = Softmax (t) }"""
CONVOLUTIONS = """
    convolutions (float[N,2,6,6] x) => (float[N,3] y)
    <float[4,2,3,3] w, float[4] b, float[4,1,3,3] d, float[4,3] v> {
        [first] t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (t)
        [depthwise] u = Conv <group = 4, strides = [2, 2]> (r, d)
        m = GlobalAveragePool (u)
        f = Flatten (m)
        [last] y = Gemm (f, v)
    }"""


def observe(graph: LpGraph, tensors: object) -> object:
    return observer(graph, list(tensors), threads=1)  # type: ignore[call-overload]


def calls_of(shape: tuple[int, ...], count: int = 4, batch: int = 2) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(batch, *shape)).astype(np.float32)} for _ in range(count)]


def samples_of(graph: LpGraph, calls: list[dict[str, Array]], labels: Array | None = None) -> Samples:
    return Samples.of(graph, [n.name for n in graph.layers()], observe, calls, labels)  # type: ignore[arg-type]


def scores(
    graph: LpGraph, errors: Mapping[str, LayerErrors], samples: Samples, **options: object
) -> dict[str, Score]:
    return score_weight_errors(graph, errors, observe, samples, **options)  # type: ignore[arg-type]


def classifier() -> tuple[LpGraph, Samples, Array, Array]:
    """Graph, samples, all inputs and their class probabilities."""
    graph, calls = graph_of(CLASSIFIER), calls_of((3,))
    x = np.concatenate([c["x"] for c in calls]).astype(np.float64)
    t = x @ graph.value("w").values
    return graph, samples_of(graph, calls), x, np.exp(t) / np.exp(t).sum(-1, keepdims=True)


def expected_kl(x: Array, p: Array, delta: Array) -> float:
    """1/2 mean_i dz^T (diag(p) - p p^T) dz, dz = dW x: the expectation over all draws."""
    dz = x @ delta.T
    return float(0.5 * ((p * dz**2).sum(-1) - (p * dz).sum(-1) ** 2).mean())


def test_with_orthogonal_draws_the_fisher_score_is_its_expectation_exactly() -> None:
    graph, samples, x, p = classifier()
    deltas = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    found = scores(graph, {"fc": LayerErrors(None, deltas)}, samples, draws=4)["fc"]
    np.testing.assert_allclose(found.mean, [expected_kl(x, p, d) for d in deltas], rtol=1e-4)


def test_labels_of_the_models_softmax_have_the_same_mean() -> None:
    graph, samples, x, p = classifier()
    deltas = np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32)
    found = scores(graph, {"fc": LayerErrors(None, deltas)}, samples, loss="sampled", draws=400)["fc"]
    np.testing.assert_allclose(found.mean, expected_kl(x, p, deltas[0]), rtol=0.15)


def test_labels_give_the_empirical_fisher_exactly_with_its_standard_error() -> None:
    graph, _, x, p = classifier()
    labels = np.arange(8) % 4
    samples = samples_of(graph, calls_of((3,)), labels)
    deltas = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    found = scores(graph, {"fc": LayerErrors(None, deltas)}, samples, loss="labels")["fc"]
    terms = 0.5 * np.einsum("ic,mck,ik->im", p - np.eye(4)[labels], deltas, x) ** 2
    np.testing.assert_allclose(found.mean, terms.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.standard_error, terms.std(0, ddof=1) / np.sqrt(8), rtol=1e-4)


def test_probes_give_half_the_noise_to_signal_power_of_the_output() -> None:
    graph = graph_of("linear (float[N,3] x) => (float[N,4] y) <float[3,4] w> { [fc] y = MatMul (x, w) }")
    calls = calls_of((3,), count=100)
    samples, delta = (
        samples_of(graph, calls),
        np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32),
    )
    x = np.concatenate([c["x"] for c in calls]).astype(np.float64)
    ratio = np.square(x @ delta[0].T).sum() / np.square(x @ graph.value("w").values).sum()
    found = scores(graph, {"fc": LayerErrors(None, delta)}, samples, draws=64)["fc"]
    np.testing.assert_allclose(2 * found.mean, ratio, rtol=0.05)


def convolution_errors(graph: LpGraph, candidates: int) -> dict[str, LayerErrors]:
    rng = np.random.default_rng(3)
    sizes = {"first": (4, 18), "depthwise": (4, 9), "last": (3, 4)}
    return {
        n: LayerErrors(None, rng.normal(size=(candidates, *s)).astype(np.float32)) for n, s in sizes.items()
    }


def test_few_candidates_by_products_and_many_by_gradients_agree() -> None:
    graph = graph_of(CONVOLUTIONS)
    samples = samples_of(graph, calls_of((2, 6, 6)))
    many = convolution_errors(graph, 5)
    few = {n: LayerErrors(None, e.deltas[:2]) for n, e in many.items()}
    centre = {"first": np.full((4, 18), 0.3), "depthwise": np.ones((4, 9)), "last": np.full((3, 4), -0.2)}
    for means in (None, centre):
        a = scores(graph, many, samples, loss="kl", centre=means)
        b = scores(graph, few, samples, loss="kl", centre=means)
        for name in many:
            np.testing.assert_allclose(a[name].mean[:2], b[name].mean, rtol=1e-3)


def test_chunks_that_save_memory_change_nothing() -> None:
    graph = graph_of(CONVOLUTIONS)
    samples, errors = samples_of(graph, calls_of((2, 6, 6))), convolution_errors(graph, 3)
    whole = scores(graph, errors, samples, loss="kl", draws=2)
    apart = scores(graph, errors, samples, loss="kl", draws=2, memory_bytes=1)
    for name in errors:
        np.testing.assert_allclose(whole[name].mean, apart[name].mean, rtol=1e-4)


def test_rows_stand_for_all_rows_in_proportion() -> None:
    graph = graph_of(CONVOLUTIONS)
    samples, all_rows = samples_of(graph, calls_of((2, 6, 6))), convolution_errors(graph, 3)["first"]
    rows = np.array([0, 2])
    only = np.zeros_like(all_rows.deltas)
    only[:, rows] = all_rows.deltas[:, rows]
    a = scores(graph, {"first": LayerErrors(rows, all_rows.deltas[:, rows])}, samples, loss="kl")["first"]
    b = scores(graph, {"first": LayerErrors(None, only)}, samples, loss="kl")["first"]
    np.testing.assert_allclose(a.mean, 2 * b.mean, rtol=1e-4)


def test_centring_takes_away_what_a_corrected_bias_does() -> None:
    """An error that only shifts the output by its mean scores nothing once the mean of the input is known."""
    graph = graph_of("linear (float[N,3] x) => (float[N,4] y) <float[3,4] w> { [fc] y = MatMul (x, w) }")
    calls = [{"x": c["x"] * 0 + np.float32(2) + np.float32(0.001) * c["x"]} for c in calls_of((3,))]
    samples, delta = samples_of(graph, calls), np.ones((1, 4, 3), np.float32)
    plain = scores(graph, {"fc": LayerErrors(None, delta)}, samples)["fc"]
    centred = scores(graph, {"fc": LayerErrors(None, delta)}, samples, centre={"fc": np.full((4, 3), 2.0)})[
        "fc"
    ]
    assert centred.value < 1e-4 * plain.value


def test_a_batch_axis_that_mixes_samples_makes_every_call_one_sample() -> None:
    graph = graph_of(
        "mixing (float[N,3] x) => (float[N,4] y) <float[3,4] w> { [fc] t = MatMul (x, w) "
        "m = ReduceMean <axes = [0], keepdims = 1> (t)  y = Sub (t, m) }"
    )
    samples = samples_of(graph, calls_of((3,)))
    assert not samples.per_sample
    assert len(samples.calls) == 8


def test_samples_that_do_not_touch_each_other_are_merged() -> None:
    samples = samples_of(graph_of(CONVOLUTIONS), calls_of((2, 6, 6), count=10, batch=1))
    assert samples.per_sample
    assert [len(c["x"]) for c in samples.calls] == [8, 2]


def test_missing_labels_and_labels_that_are_no_classes_are_named() -> None:
    graph, calls = graph_of(CLASSIFIER), calls_of((3,))
    errors = {"fc": LayerErrors(None, np.ones((1, 4, 3), np.float32))}
    with pytest.raises(CalibrationError, match="without labels"):
        scores(graph, errors, samples_of(graph, calls), loss="labels")
    with pytest.raises(CalibrationError, match=r"label 4 is no class of 0\.\.3"):
        scores(graph, errors, samples_of(graph, calls, np.full(8, 4)), loss="labels")
    with pytest.raises(CalibrationError, match="7 labels for 8 samples"):
        samples_of(graph, calls, np.zeros(7, np.int64))


def test_a_gradient_that_is_not_finite_names_its_layer() -> None:
    graph = graph_of(
        """bad (float[N,3] x) => (float[N,4] y) <float[3,4] w> {
            [fc] t = MatMul (x, w)  u = Sub (t, t)  v = Exp (u)  y = Acos (v) }"""
    )
    samples = samples_of(graph, calls_of((3,)))
    with pytest.raises(GradientError, match="fc: its gradient is NaN or infinite"):
        scores(graph, {"fc": LayerErrors(None, np.ones((1, 4, 3), np.float32))}, samples)


def test_the_automatic_loss_is_kl_behind_a_softmax_and_probes_elsewhere() -> None:
    graph = graph_of(CLASSIFIER)
    head = choose_head(graph, "auto", observe, samples_of(graph, calls_of((3,))))  # type: ignore[arg-type]
    assert (head.shown, head.tensors) == ("kl", ("t",))
    graph = graph_of(CONVOLUTIONS)
    head = choose_head(graph, "auto", observe, samples_of(graph, calls_of((2, 6, 6))))  # type: ignore[arg-type]
    assert (head.shown, head.tensors) == ("probe", ("y",))


def test_balanced_signs_are_orthogonal_over_the_draws_for_the_most_probable_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 9))
    signs = np.stack(balanced_signs(logits, 4, np.random.default_rng(1)))  # (draws, N, C)
    top = np.argsort(-logits, -1)[:, :4]
    for i in range(5):
        np.testing.assert_array_equal(signs[:, i, top[i]].T @ signs[:, i, top[i]], 4 * np.eye(4))
    np.testing.assert_array_equal(hadamard(4) @ hadamard(4).T, 4 * np.eye(4))


def test_draws_in_several_runs_come_from_one_seed() -> None:
    graph, samples, *_ = classifier()
    errors = {"fc": LayerErrors(None, np.ones((1, 4, 3), np.float32))}
    a, b = (scores(graph, errors, samples, loss="sampled", draws=8, seed=5)["fc"].value for _ in range(2))
    assert a == b
    assert a != scores(graph, errors, samples, loss="sampled", draws=8, seed=6)["fc"].value


def test_a_head_may_be_given() -> None:
    graph, samples, *_ = classifier()
    errors = {"fc": LayerErrors(None, np.random.default_rng(0).normal(size=(1, 4, 3)).astype(np.float32))}
    assert (
        scores(graph, errors, samples, head=Head("output", ("y",)))["fc"].value < 1e-9
    )  # probabilities sum to 1
