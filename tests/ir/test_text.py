import pytest

from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.text import from_text, to_text
from tests.support import assert_same_outputs, conv_bn_model, parse_model


def test_a_small_graph_reads_back() -> None:
    model = parse_model(
        "g (float[2] x) => (float[2] y) <float[2] w = {1.5, 2}> { a = Add (x, w)  y = Relu (a) }"
    )
    text = to_text(LpGraph.from_proto(model))
    assert "[Relu_1] y = Relu (a)" in text
    graph = from_text(text)
    assert to_text(graph) == text
    assert_same_outputs(model, graph.to_proto())


def test_large_weights_are_abbreviated() -> None:
    text = to_text(LpGraph.from_proto(conv_bn_model()))
    assert "# w: float32[8,8,3,3], 2304 bytes" in text.splitlines()
    assert len(text) < 1500


def test_text_that_is_no_model() -> None:
    with pytest.raises(ModelError, match="not a model in text form") as caught:
        from_text("g (float[2] x) => { nonsense")
    assert caught.value.hint
    assert "\n" not in str(caught.value)
