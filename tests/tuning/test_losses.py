"""Losses and where their gradients start, against numpy in float64 and central differences."""

from collections.abc import Sequence

import numpy as np
import pytest

from lpcompile.errors import CalibrationError, GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.tuning.losses import Head, add_loss, head_targets, heads_of, label_targets, soft_target
from tests.support import Array, parse_model, run_model

MODEL = """m (float[N,4] x) => (float[N,4] z, float[N,4] p, float[N,4] y, int64[N] c) {
    z = Relu (x)
    u = Mul (x, x)
    p = Softmax (u)
    y = Neg (x)
    c = ArgMax <axis = 1, keepdims = 0> (x)
}"""


def graph(text: str = MODEL) -> LpGraph:
    found = LpGraph.from_proto(parse_model(text))
    found.infer_shapes()
    return found


def kinds(found: Sequence[Head]) -> list[tuple[int, str, bool]]:
    return [(h.output, h.kind, h.normalised) for h in found]


def test_outputs_are_compared_as_they_are_or_before_their_softmax() -> None:
    g = graph()
    heads = heads_of(g, "auto")
    assert kinds(heads) == [(0, "mse", False), (1, "mse", True), (2, "mse", False)]
    assert [h.tensor(g).name for h in heads] == ["z", "u", "y"]
    assert kinds(heads_of(g, "kl")) == [(0, "kl", False), (1, "kl", True), (2, "kl", False)]
    assert kinds(heads_of(g, "mse")) == kinds(heads)
    assert len(heads_of(g, "cross-entropy")) == 1


def test_no_output_with_classes_is_an_error() -> None:
    g = graph("m (float[4] x) => (float[4] y) { y = Relu (x) }")
    with pytest.raises(GradientError, match="no output can be compared by the loss 'kl'"):
        heads_of(g, "kl")


def numbers(
    g: LpGraph, heads: Sequence[Head], targets: Sequence[Array], x: Array
) -> tuple[float, list[Array]]:
    powers = [float((t.astype(np.float64) ** 2).mean()) for t in targets]
    loss, seeds, names = add_loss(g, heads, powers)
    for value in (loss, *seeds.values()):
        g.add_output(value)
    found = run_model(g.to_proto(), {"x": x, **dict(zip(names, targets, strict=True))})
    return float(found[loss.name]), [found[s.name] for s in seeds.values()]


def log_softmax(z: Array) -> Array:
    z = z.astype(np.float64)
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def test_divergence_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    x, other = (rng.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    g = graph()
    head = heads_of(g, "kl")[1]
    p = soft_target(head, other * other)
    np.testing.assert_allclose(p, np.exp(log_softmax(other * other)), rtol=1e-5)

    def wanted(u: Array) -> float:
        return float((p * (np.log(p.astype(np.float64)) - log_softmax(u))).sum(-1).mean())

    loss, (seed,) = numbers(g, [head], [p], x)
    u = (x * x).astype(np.float64)
    assert loss == pytest.approx(wanted(u), rel=1e-5)
    for at in [(0, 0), (3, 2), (4, 1)]:
        step = np.zeros_like(u)
        step[at] = 1e-5
        slope = (wanted(u + step) - wanted(u - step)) / 2e-5
        assert seed[at] == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_error_over_signal_and_its_gradient() -> None:
    rng = np.random.default_rng(1)
    x, t = (rng.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    loss, (seed,) = numbers(graph(), [Head(2, "mse")], [t], x)
    y, signal = -x.astype(np.float64), (t.astype(np.float64) ** 2).mean()
    assert loss == pytest.approx(((y - t) ** 2).mean() / signal, rel=1e-5)
    np.testing.assert_allclose(seed, 2 * (y - t) / (y.size * signal), rtol=1e-4, atol=1e-7)


def test_losses_of_several_outputs_add_up() -> None:
    rng = np.random.default_rng(2)
    x, t = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
    one = numbers(graph(), [Head(2, "mse")], [t], x)[0]
    two = numbers(graph(), [Head(0, "mse")], [t], x)[0]
    both = numbers(graph(), [Head(0, "mse"), Head(2, "mse")], [t, t], x)[0]
    assert both == pytest.approx(one + two, rel=1e-5)


def test_labels_become_one_hot_along_the_class_axis() -> None:
    z = np.zeros((2, 3, 4, 4), np.float32)
    labels = np.random.default_rng(0).integers(0, 3, (2, 4, 4))
    (found,) = label_targets(Head(0, "kl", -3), [z], [labels], "data")
    assert found.shape == z.shape
    np.testing.assert_array_equal(found.argmax(1), labels)
    assert (found.sum(1) == 1).all()
    ((column,),) = head_targets([Head(0, "kl")], [[z[:, :, 0, 0]]], [np.array([[2.0], [0.0]])], "data")
    assert column.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "needs labels, and the samples bring none"),
        ([np.array([0, 3])], r"label 3 is out of range 0\.\.2"),
        ([np.array([-1, 0])], r"label -1 is out of range 0\.\.2"),
        ([np.array([0, 1, 2])], r"labels of shape \(3,\) for an output of shape \(2, 3\)"),
        ([np.array([0.5, 1.0])], "labels are class numbers, not float64"),
        ([np.array(["cat", "dog"])], "labels are class numbers"),
    ],
)
def test_bad_labels_are_refused(labels: list[Array], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        label_targets(Head(0, "kl"), [np.zeros((2, 3), np.float32)], labels, "data.npz")
