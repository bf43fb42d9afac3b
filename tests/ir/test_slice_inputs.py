"""Axes of negative size: refused by name before the inference of Slice ends the process; sound models pass."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.accounts.sizes import settled
from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.slice_inputs import check_slices
from tests.cli.cli_runner import error_lines
from tests.support import parse_model

WINDOW = """m (float[1,1,{rows},3] x) => (float[A,B,C,D] y)
<float[1,1,7,1] w, int64[1] st = {{0}}, int64[1] en = {{-6}}, int64[1] ax = {{2}}> {{
    c = Conv (x, w)  {before}y = Slice ({read}, st, en, ax)
}}"""
TIME = """m (float[T,16] x) => (float[U,4] y)
<float[1,1,7,1] w, int64[1] st = {0}, int64[1] en = {-6}, int64[1] ax = {2}, int64[2] two = {0,1}, float[16,4] v> {
    u = Unsqueeze (x, two)  c = Conv (u, w)  s = Slice (c, st, en, ax)  q = Squeeze (s, two)  y = MatMul (q, v)
}"""


def net(rows: int, before: str = "", read: str = "c") -> onnx.ModelProto:
    return parse_model(WINDOW.format(rows=rows, before=before, read=read), opset=18, check=False)


@pytest.mark.parametrize(
    ("before", "read"), [("", "c"), ("r = Relu (c)  ", "r"), ("r = Slice (c, st, st, ax)  ", "c")]
)
def test_a_window_that_does_not_fit(before: str, read: str) -> None:
    with pytest.raises(ModelError, match="negative size") as caught:
        check_slices(net(3, before, read))
    assert caught.value.where == "c"
    assert "--input-shape" in str(caught.value.hint)


def test_behind_a_slice_that_is_sound() -> None:
    text = WINDOW.format(rows=9, before="f = Slice (c, st, en2, ax)  d = Conv (f, w)  ", read="d")
    model = parse_model(text.replace("ax = {2}>", "ax = {2}, int64[1] en2 = {1}>"), opset=18, check=False)
    with pytest.raises(ModelError) as caught:
        check_slices(model)
    assert caught.value.where == "d"


TAKEN = "m (float[5,3] x) => (float[A,3] y) <int64[1] st = {0}, int64[1] en = {-6}> { y = Slice (x, st, en) }"
IN_A_BODY = """m (float[5,3] x) => (float[A,3] y) <bool c = {1}> {
    y = If (c) <then_branch = g () => (float[A,3] a) <int64[1] st = {0}, int64[1] en = {-6}> {
        r = Relu (x)  a = Slice (r, st, en) },
    else_branch = h () => (float[B,3] b) { b = Identity (x) }>
}"""


@pytest.mark.parametrize(("text", "read"), [(TAKEN, "x"), (WINDOW.format(rows=20, before="", read="c"), "c")])
@pytest.mark.parametrize("size", [-1, -5])
def test_a_size_below_0_that_a_file_declares_is_unknown(text: str, read: str, size: int) -> None:
    model = parse_model(text, opset=18, check=False)
    if read != "x":
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(read, 1, [1, 1, size, 3]))
    for info in (model.graph.input[0], *model.graph.value_info):
        info.type.tensor_type.shape.dim[-2].dim_value = size
    before = model.SerializeToString()
    check_slices(model)
    graph = LpGraph.from_proto(model)
    shape = next(iter(graph.inputs)).shape
    assert shape is not None
    assert shape[-2] is None
    graph.infer_shapes()
    assert model.SerializeToString() == before  # the caller's
    made = graph.to_proto()
    infos = (*made.graph.input, *made.graph.value_info, *made.graph.output)
    assert all(d.dim_value >= 0 for i in infos for d in i.type.tensor_type.shape.dim)


def test_a_size_below_0_that_a_body_declares_is_unknown() -> None:
    model = parse_model(IN_A_BODY, opset=18, check=False)
    body = model.graph.node[0].attribute[0].g
    body.value_info.append(onnx.helper.make_tensor_value_info("r", 1, [-1, 3]))
    check_slices(model)
    LpGraph.from_proto(model).infer_shapes()  # the inference of Slice would end the process


def test_sound_models_pass_and_are_not_changed() -> None:
    model = net(20)
    before = model.SerializeToString()
    check_slices(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["run", "--random", "0"], ["analyze", "--cost"]])
def test_every_command_ends_in_one_line(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net(3), path)
    lines = error_lines(*words[:1], *words[1:], path, code=3)
    assert len(lines) == 2
    assert "negative size" in lines[0]


def test_a_compilation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="negative size"):
        lpcompile.compile(net(3), target="ort")


def test_a_first_axis_that_is_time_has_the_size_of_the_sample() -> None:
    model = parse_model(TIME, opset=18)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    found = settled(graph, {"x": (40, 16)})
    assert found.value("x").shape == (40, 16)
    assert settled(graph) is graph
    calls = [{"x": np.random.default_rng(i).normal(size=(40, 16)).astype(np.float32)} for i in range(5)]
    made = lpcompile.compile(model, target="ort", calibration=calls, recipe="int8")
    assert made.report["quality"]["sqnr_db_output"] > 20
