"""Loss heads: their gradients, and the second moments that make them useful."""

from typing import Any

import numpy as np
import pytest

from lpcompile.autodiff.losses import Fed, add_loss, class_tensors, float_outputs, logits_of
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.errors import GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import observer
from tests.support import Array, parse_model

MODEL = """
    classes (float[N,3] x) => (float[N,4] y) <float[3,4] w> { t = MatMul (x, w)  y = Softmax (t) }"""
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
LABELS = np.array([3, 1])


def graph_of(text: str = MODEL) -> LpGraph:
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return graph


def probabilities(graph: LpGraph) -> Array:
    t = X.astype(np.float64) @ graph.value("w").values
    return np.asarray(np.exp(t) / np.exp(t).sum(-1, keepdims=True))


def gradient(kind: str, feeds: dict[Fed, Array], tensor: str = "t", **options: object) -> tuple[Array, Any]:
    """Gradient at a tensor, and the loss."""
    graph = graph_of()
    loss = add_loss(graph, kind, [tensor], **options)  # type: ignore[arg-type]
    seed = loss.seeds[tensor].name
    wanted = [seed] if loss.value is None else [seed, loss.value.name]
    values = observer(graph, wanted, threads=1)({"x": X, **{i.name: feeds[i.fed] for i in loss.inputs}})
    return values[seed], None if loss.value is None else values[loss.value.name]


def test_cross_entropy_is_that_of_the_labels_and_sums_over_samples() -> None:
    p = probabilities(graph_of())
    found, value = gradient("labels", {Fed.LABELS: LABELS})
    np.testing.assert_allclose(found, p - np.eye(4)[LABELS], atol=1e-6)
    np.testing.assert_allclose(value, -np.log(p[[0, 1], LABELS]).sum(), rtol=1e-6)


def test_kl_has_the_gradient_p_minus_q_and_none_at_the_float_weights() -> None:
    p = probabilities(graph_of())
    reference = np.log(p[::-1]).astype(np.float32)
    found, value = gradient("kl", {Fed.REFERENCE: reference})
    np.testing.assert_allclose(found, p - p[::-1], atol=1e-6)
    np.testing.assert_allclose(value, (p[::-1] * np.log(p[::-1] / p)).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient("kl", {Fed.REFERENCE: np.log(p).astype(np.float32)})[0], 0, atol=1e-6)


def test_mse_is_twice_the_difference() -> None:
    p = probabilities(graph_of())
    found, value = gradient("mse", {Fed.REFERENCE: np.zeros_like(p, np.float32)}, "y", scales={"y": 0.5})
    np.testing.assert_allclose(found, p, rtol=1e-5)
    np.testing.assert_allclose(value, 0.5 * np.square(p).sum(), rtol=1e-5)


def test_signs_through_the_softmax_head_have_the_fisher_matrix_exactly_over_all_signs() -> None:
    p = probabilities(graph_of())
    corners = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T.astype(np.float32)
    found = np.stack([gradient("softmax", {Fed.SIGNS: np.stack([s, s])})[0] for s in corners]).astype(
        np.float64
    )
    for i, q in enumerate(p):
        second = np.einsum("sa,sb->ab", found[:, i], found[:, i]) / len(corners)
        np.testing.assert_allclose(second, np.diag(q) - np.outer(q, q), atol=1e-6)


@pytest.mark.parametrize("opset", [17, 18, 23])  # 18: axes of a mean became an input
def test_contrasts_are_signs_without_their_mean(opset: int) -> None:
    graph = LpGraph.from_proto(parse_model(MODEL, opset=opset))
    graph.infer_shapes()
    loss = add_loss(graph, "contrast", ["t"])
    seed = loss.seeds["t"].name
    signs = np.array([[1, 1, 1, -1], [1, -1, -1, -1]], np.float32)
    found = observer(graph, [seed], threads=1)({"x": X, loss.inputs[0].name: signs})[seed]
    np.testing.assert_array_equal(found, np.array([[0.5, 0.5, 0.5, -1.5], [1.5, -0.5, -0.5, -0.5]]))


@pytest.mark.thorough
def test_labels_drawn_in_the_graph_follow_the_models_softmax() -> None:
    rng, p = np.random.default_rng(0), probabilities(graph_of())
    draws = [
        gradient("sampled", {Fed.GUMBEL: rng.gumbel(size=(2, 4)).astype(np.float32)})[0] for _ in range(300)
    ]
    drawn = p - np.stack(draws)  # one-hot labels
    np.testing.assert_allclose(np.sort(drawn, -1)[..., -1], 1, atol=1e-5)
    np.testing.assert_allclose(drawn.mean(0), p, atol=0.09)


def test_a_chosen_output_has_the_gradient_one_or_the_weights_fed() -> None:
    weights = np.full((2, 4), 3, np.float32)
    np.testing.assert_array_equal(gradient("output", {}, "y")[0], np.ones((2, 4)))
    found, value = gradient("output", {Fed.WEIGHTS: weights}, "y", weighted=True)
    np.testing.assert_array_equal(found, weights)
    np.testing.assert_allclose(value, 6, rtol=1e-5)


def test_logits_are_what_a_softmax_over_the_last_axis_reads() -> None:
    graph = graph_of()
    found = logits_of(graph.value("y"))
    assert found is not None
    assert found.name == "t"
    other = graph_of("other (float[N,3,5] x) => (float[N,3,5] y) { y = Softmax <axis = 1> (x) }")
    assert logits_of(other.value("y")) is None


def test_bare_outputs_are_logits_on_request_only() -> None:
    graph = graph_of("bare (float[N,3] x) => (float[N,4] y) <float[3,4] w> { y = MatMul (x, w) }")
    assert [v.name for v in class_tensors(graph, bare=True)] == ["y"]
    with pytest.raises(GradientError, match="no output gives classes"):
        class_tensors(graph, bare=False)


def test_a_tensor_that_is_not_there_is_named() -> None:
    with pytest.raises(GradientError, match="'nothing'"):
        add_loss(graph_of(), "probe", ["nothing"])


def test_seeds_go_straight_into_the_chain_rule() -> None:
    graph = graph_of()
    loss = add_loss(graph, "labels", ["t"])
    wanted = add_gradients(graph, loss.seeds, ["w"])["w"]
    assert wanted is not None
    found = observer(graph, [wanted.name], threads=1)({"x": X, loss.inputs[0].name: LABELS})[wanted.name]
    np.testing.assert_allclose(found, X.T @ (probabilities(graph) - np.eye(4)[LABELS]), atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "body", "found"),
    [
        ("int64[N] z", "t = MatMul (x, w)  z = ArgMax <axis=1, keepdims=0> (t)", ["t"]),
        ("float[N,4] y, int64[N] z", "y = MatMul (x, w)  z = ArgMax <axis=1, keepdims=0> (y)", ["y"]),
        ("float[N,4] y, bool[N,4] z", "y = MatMul (x, w)  u = MatMul (x, v)  z = Greater (u, u)", ["y", "u"]),
        ("float16[N,4] y", "t = MatMul (x, w)  y = Cast <to=10> (t)", ["t"]),
        ("float[N,4] y, int64[2] z", "y = MatMul (x, w)  u = MatMul (x, v)  z = Shape (u)", ["y"]),
        ("int64[2] z", "u = MatMul (x, v)  z = Shape (u)", []),
    ],
)
def test_what_outputs_are_read_off_counts_where_they_hold_no_floats(
    outputs: str, body: str, found: list[str]
) -> None:
    graph = graph_of(f"m (float[N,3] x) => ({outputs}) <float[3,4] w, float[3,4] v> {{ {body} }}")
    assert [v.name for v in float_outputs(graph)] == found
