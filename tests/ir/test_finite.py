import ml_dtypes
import numpy as np
import pytest

from lpcompile.errors import ModelError
from lpcompile.ir.finite import check_finite
from lpcompile.ir.graph import LpGraph
from tests.support import conv_bn_model, parse_model


@pytest.mark.parametrize(("value", "fine"), [(9e17, True), (-9e17, True), (2e18, False), (-3e38, False)])
def test_weights_whose_squares_overflow(value: float, fine: bool) -> None:
    w = np.zeros((8, 8, 3, 3))
    w[3, 2, 1, 0] = value
    if fine:
        check_finite(with_weight(w))
        return
    with pytest.raises(ModelError, match="squares overflow float32") as caught:
        check_finite(with_weight(w))
    assert f"up to {abs(value):.3g}" in caught.value.message


def with_weight(w: np.ndarray) -> LpGraph:
    graph = LpGraph.from_proto(conv_bn_model())
    graph.set_weights(graph.nodes("Conv")[0], w, None)
    return graph


def test_good_weights_pass() -> None:
    check_finite(with_weight(np.zeros((8, 8, 3, 3))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_weights_are_named_and_counted(bad: float) -> None:
    w = np.zeros((8, 8, 3, 3), np.float32)
    w[1, :3, 0, 0] = bad
    with pytest.raises(ModelError, match="initializer 'w' holds 3 NaN or infinite values") as caught:
        check_finite(with_weight(w))
    assert caught.value.hint


def test_masks_may_be_infinite_but_not_nan() -> None:
    graph = LpGraph.from_proto(
        parse_model("g (float[2] x) => (float[2] y) <float[2] mask, bfloat16[2] other> { y = Add (x, mask) }")
    )
    y = graph.nodes()[0]
    y.set_input(1, graph.constant("m", np.array([0, -np.inf], np.float32)))
    check_finite(graph)
    y.set_input(1, graph.constant("n", np.array([0, np.nan], ml_dtypes.bfloat16)))
    with pytest.raises(ModelError, match="'n' holds 1 NaN values"):
        check_finite(graph)
