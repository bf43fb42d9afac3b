import numpy as np
import pytest

from lpcompile.errors import InputError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.shapes import light_proto
from tests.support import parse_model

TEXT = """
    g (float[N,3,H,W] x) => (float[N,K] y) <float[8,3,3,3] w, float[8,5] v, int64[2] shape = {0, -1}> {
        t = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)
        p = GlobalAveragePool (t)
        r = Reshape (p, shape)
        y = MatMul (r, v)
    }"""


def test_symbols_stay_and_constants_are_read() -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    graph.infer_shapes()
    assert graph.value("x").shape == ("N", 3, "H", "W")
    assert graph.value("p").shape == ("N", 8, 1, 1)
    assert graph.value("r").shape == ("N", 8)
    assert graph.value("r").dtype == np.dtype(np.float32)
    assert not graph.notes
    infos = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in graph.to_proto().graph.value_info
    }
    assert infos["p"] == ["N", 8, 1, 1]


def test_concrete_input_shapes_replace_symbols_everywhere() -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    graph.infer_shapes()
    graph.infer_shapes({"x": (2, 3, 16, 8)})
    assert graph.value("x").shape == (2, 3, 16, 8)
    assert graph.value("t").shape == (2, 8, 8, 4)
    assert graph.value("y").shape == (2, 5)
    after = LpGraph.from_proto(graph.to_proto())
    assert after.inputs[0].shape == (2, 3, 16, 8)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1,)}, "no input 'z'"),
        ({"x": (1, 3, 4)}, "input 'x' is Nx3xHxW, which 1x3x4 does not fit"),
        ({"x": (1, 4, 8, 8)}, "does not fit"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    with pytest.raises(InputError, match=message):
        graph.infer_shapes(shapes)
    assert graph.value("x").shape == ("N", 3, "H", "W")


def test_what_cannot_be_inferred_is_left_unknown() -> None:
    model = parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2] x) => (float[2] y) { t = own.Thing (x)  y = Relu (t) }""")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    assert graph.value("t").dtype is None
    assert graph.value("t").shape is None
    assert graph.value("y").shape == (2,)


def test_a_contradiction_is_survived() -> None:
    model = parse_model(
        "g (float[2,3] x) => (float[2,3] y) <float[4,3] w> { y = MatMul (x, w) }", check=False
    )
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    assert graph.value("x").shape == (2, 3)
    assert graph.value("y").shape == (2, 3)


def test_the_light_model_has_no_large_weights() -> None:
    graph = LpGraph.from_proto(
        parse_model("g (float[2,64] x) => (float[2,64] y) <float[64,64] w> { y = MatMul (x, w) }")
    )
    assert light_proto(graph).ByteSize() < 400
