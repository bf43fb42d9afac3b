"""What a loss compares, and labels as it takes them."""

import numpy as np
import pytest

from lpcompile.errors import CalibrationError, GradientError
from lpcompile.ir.graph import LpGraph
from lpcompile.tuning.targets import compared, label_targets, signal
from tests.support import Array, parse_model

MODEL = """m (float[N,4] x) => (float[N,4] z, float[N,4] p, float[N,1] y, int64[N] c) {
    z = Relu (x)
    u = Mul (x, x)
    p = Softmax (u)
    y = ReduceMean <axes = [1]> (x)
    c = ArgMax <axis = 1, keepdims = 0> (x)
}"""


def graph(text: str = MODEL) -> LpGraph:
    found = LpGraph.from_proto(parse_model(text))
    found.infer_shapes()
    return found


def test_float_outputs_are_compared_before_their_softmax() -> None:
    for loss in ("auto", "mse"):
        assert compared(graph(), loss).tensors == ("z", "u", "y")
        assert compared(graph(), loss).kind == "mse"


def test_classes_are_those_of_a_softmax_or_of_outputs_without_one() -> None:
    assert compared(graph(), "kl").tensors == ("u",)
    assert compared(graph(), "cross-entropy").kind == "labels"
    bare = graph("m (float[N,4] x) => (float[N,4] a, float[N,4] b) { a = Relu (x) b = Neg (x) }")
    assert compared(bare, "kl").tensors == ("a", "b")
    assert compared(bare, "cross-entropy").tensors == ("a",)


def test_the_divergence_where_it_fits_and_else_the_squared_error() -> None:
    assert compared(graph(), "kl-or-mse") == compared(graph(), "kl")
    image = graph("m (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu (x) }")
    assert compared(image, "kl-or-mse") == compared(image, "mse")


def test_outputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GradientError, match="no output gives classes"):
        compared(graph("m (float[4] x) => (float[4] y) { y = Relu (x) }"), "kl")
    with pytest.raises(GradientError, match="classes on the last axis of at most 3"):
        compared(graph("m (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu (x) }"), "kl")
    with pytest.raises(GradientError, match="no output holds floats"):
        compared(
            graph("m (float[N,4] x) => (int64[N] c) { c = ArgMax <axis = 1, keepdims = 0> (x) }"), "auto"
        )


def test_signal_is_the_energy_of_a_call() -> None:
    assert signal([np.full((2, 3), 2.0, np.float32), np.zeros((2, 3), np.float32)]) == 12
    assert signal([np.zeros((1, 1), np.float32)]) > 0


def test_labels_take_the_shape_of_the_logits_without_classes() -> None:
    z = np.zeros((2, 5, 3), np.float32)
    labels = np.random.default_rng(0).integers(0, 3, 10).astype(np.float32)
    (found,) = label_targets([z], [labels], "data")
    assert (found.shape, found.dtype) == ((2, 5), np.dtype(np.int64))
    np.testing.assert_array_equal(found.reshape(-1), labels)


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
        label_targets([np.zeros((2, 3), np.float32)], labels, "data.npz")
