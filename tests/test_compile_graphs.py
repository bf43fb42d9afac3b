"""Models as they come: old, nameless, without batch axis, with bodies, with weights in other files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import lpcompile
from lpcompile.ir import io
from lpcompile.runtime.compare import compare
from tests.networks import compiled_network, shipped, shipped_data, toy, toy_calls, without_costs
from tests.support import Array, parse_model, run_model


@pytest.fixture(autouse=True)
def integers_wherever_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


def normal_calls(shapes: dict[str, tuple[int, ...]], count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(count)]


def agrees(
    model: ModelProto,
    calls: list[dict[str, Array]],
    least_db: float = 20.0,
    *,
    recipe: str = "int8",
    **options: Any,
) -> lpcompile.Artefacts:
    """Compile and compare on one more sample than were given."""
    made = lpcompile.compile(model, calibration=calls[:-1], recipe=recipe, **options)
    found = compare([(run_model(model, calls[-1]), run_model(made.model, calls[-1]))]).sqnr_db
    assert found is not None
    assert found >= least_db
    assert all(r["reason"] for r in made.report["layers"] if r["weight_format"] == "float32")
    return made


def formats(made: lpcompile.Artefacts) -> list[str]:
    return [r["weight_format"] for r in made.report["layers"]]


CONVS = """
    m (float[{batch}3,{h},{w}] x) => (float[{batch}4,{h},{w}] y)
    <float[4,3,3,3] w1, float[4] b1, float[4,4,3,3] w2>
    {{
        t = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        u = Relu (t)
        y = Conv <pads = [1, 1, 1, 1]> (u, w2)
    }}"""


@pytest.mark.parametrize(
    ("batch", "h", "w"), [("1,", 8, 8), ("N,", 8, 8), ("N,", "H", "W")], ids=["fixed", "batch", "all"]
)
def test_shapes(batch: str, h: object, w: object) -> None:
    """Fixed, a symbolic batch, everything symbolic but the channels."""
    model = parse_model(CONVS.format(batch=batch, h=h, w=w))
    made = agrees(model, normal_calls({"x": (1, 3, 8, 8)}, 9))
    assert formats(made) == ["int8", "int8"]


@pytest.mark.sweep
@pytest.mark.parametrize("opset", [8, 9, 11, 12])
def test_old_opsets_are_raised_and_it_is_said(opset: int) -> None:
    model = parse_model(CONVS.format(batch="1,", h=8, w=8), opset=opset, ir_version=4)
    made = agrees(model, normal_calls({"x": (1, 3, 8, 8)}, 9))
    assert formats(made) == ["int8", "int8"]
    assert any(f"opset {opset}" in w or f"from {opset}" in w for w in made.report["warnings"])
    float_only = lpcompile.compile(model, recipe="fp32")
    assert [e.version for e in float_only.model.opset_import] == [opset]  # not raised without need


def test_weights_that_are_inputs_too() -> None:
    """IR 3: initialisers stand among the inputs, and are constants all the same."""
    model = parse_model(CONVS.format(batch="1,", h=8, w=8), opset=9, ir_version=4)
    model.ir_version = 3
    for t in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    made = agrees(model, normal_calls({"x": (1, 3, 8, 8)}, 9))
    assert formats(made) == ["int8", "int8"]
    assert [i.name for i in made.session().get_inputs()] == ["x"]


def test_nodes_without_names() -> None:
    model = parse_model(CONVS.format(batch="1,", h=8, w=8))
    assert {n.name for n in model.graph.node} == {""}
    rows = agrees(model, normal_calls({"x": (1, 3, 8, 8)}, 9)).report["layers"]
    assert len({r["name"] for r in rows}) == 2


def test_bodies_stay_and_what_they_read_is_still_there() -> None:
    made = agrees(toy("if_body"), toy_calls("if_body", 9))
    (before,) = [n for n in toy("if_body").graph.node if n.op_type == "If"]
    (after,) = [n for n in made.model.graph.node if n.op_type == "If"]
    kinds = [[n.op_type for n in a.g.node] for a in after.attribute]
    assert kinds == [[n.op_type for n in a.g.node] for a in before.attribute]
    assert formats(made) == ["int8", "float32", "float32"]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("text", "shapes", "quantised"),
    [
        ("m (float[1,3,8,8] x, float[4] b) => (float[1,4,6,6] y) <float[4,3,3,3] w> { y = Conv (x, w, b) }",
         {"x": (1, 3, 8, 8), "b": (4,)}, True),
        ("m (float[5,8] x, float[5,6] b) => (float[5,6] y) <float[8,6] w> { y = Gemm (x, w, b) }",
         {"x": (5, 8), "b": (5, 6)}, True),
        ("m (float[5,8] x) => (float[5,6] y) <float[8,6] w, float[5,6] b> { y = Gemm (x, w, b) }",
         {"x": (5, 8)}, True),
        ("m (float[5,8] x) => (float[5,6] y) <float[8,6] w, float b> { y = Gemm (x, w, b) }",
         {"x": (5, 8)}, True),
        ("m (float[8,5] x) => (float[5,6] y) <float[6,8] w, float[6] b> "
         "{ y = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 2.0> (x, w, b) }", {"x": (8, 5)}, True),
        ("m (float[2,5,8] x) => (float[2,5,6] y) <float[2,8,6] w> { y = MatMul (x, w) }",
         {"x": (2, 5, 8)}, False),
        ("m (float[5,8] x) => (float[5] y) <float[8] w> { y = MatMul (x, w) }", {"x": (5, 8)}, False),
        ("m (float[8] x) => (float[6] y) <float[8,6] w> { y = MatMul (x, w) }", {"x": (8,)}, True),
        ("m (float[1,3,20] x) => (float[1,4,18] y) <float[4,3,3] w> { y = Conv (x, w) }",
         {"x": (1, 3, 20)}, True),
        ("m (float[1,2,5,5,5] x) => (float[1,4,3,3,3] y) <float[4,2,3,3,3] w> { y = Conv (x, w) }",
         {"x": (1, 2, 5, 5, 5)}, True),
        ("m (float[1,4,5,5] x) => (float[1,6,7,7] y) <float[4,3,3,3] w, float[6] b> "
         "{ y = ConvTranspose <group = 2> (x, w, b) }", {"x": (1, 4, 5, 5)}, True),
        ("m (float[1,3,9,9] x) => (float[1,4,5,5] y) <float[4,3,3,3] w> "
         "{ y = Conv <auto_pad = \"SAME_UPPER\", strides = [2, 2]> (x, w) }", {"x": (1, 3, 9, 9)}, True),
        ("m (float[1,4,8,8] x) => (float[1,8,8,8] y) <float[8,2,3,3] w> "
         "{ y = Conv <group = 2, pads = [2, 2, 2, 2], dilations = [2, 2]> (x, w) }",
         {"x": (1, 4, 8, 8)}, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_layers_of_every_form(
    text: str, shapes: dict[str, tuple[int, ...]], quantised: bool, recipe: str
) -> None:
    model = parse_model(text)
    least = {"int8": 25, "w4a8": 8}[recipe]
    made = agrees(model, normal_calls(shapes, 9), least, recipe=recipe)
    assert [f != "float32" for f in formats(made)] == [quantised]
    data_free = lpcompile.compile(model, recipe=recipe)
    assert [f != "float32" for f in formats(data_free)] == [quantised]


def matmul_of(dtype: str) -> tuple[ModelProto, list[dict[str, Array]]]:
    model = parse_model(f"m ({dtype}[5,8] x) => ({dtype}[5,6] y) <{dtype}[8,6] w> {{ y = MatMul (x, w) }}")
    array = np.dtype("float64" if dtype == "double" else dtype)
    return model, [{"x": c["x"].astype(array)} for c in normal_calls({"x": (5, 8)})]


def test_float64_stays_as_it_is() -> None:
    model, calls = matmul_of("double")
    made = lpcompile.compile(model, calibration=calls)
    (row,) = made.report["layers"]
    assert row["weight_format"] == "float64"
    assert "not float32" in row["reason"]


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_float16_outside_and_integers_inside(recipe: str) -> None:
    model, calls = matmul_of("float16")
    made = agrees(model, calls, {"int8": 25, "w4a8": 8}[recipe], recipe=recipe)
    assert formats(made) == [{"int8": "int8", "w4a8": "fixp4"}[recipe]]
    assert made.run(calls[0])["y"].dtype == np.float16


@pytest.mark.thorough
def test_external_data_in_and_out(tmp_path: Path) -> None:
    path = tmp_path / "in" / "net.onnx"
    path.parent.mkdir()
    model = onnx.load(shipped("digits_resnet"))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert all(
        t.data_location == TensorProto.EXTERNAL
        for t in onnx.load(path, load_external_data=False).graph.initializer
    )
    data = shipped_data("digits_resnet")
    made = lpcompile.compile(path, calibration=data, recipe="int8", output=tmp_path / "out")
    same = compiled_network("digits_resnet", "int8")
    with np.load(data) as samples:
        feeds = {"image": samples["image"][:8]}
    np.testing.assert_array_equal(made.run(feeds)["logits"], same.run(feeds)["logits"])
    assert len(same.report["layers"]) == len(made.report["layers"])
    size = made.report["verification"]["bytes"]["float"]
    assert size == sum(file.stat().st_size for file in path.parent.iterdir())
    assert not any("grew" in w for w in made.report["warnings"])


def test_a_large_result_goes_to_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protobuf ends at 2 GiB; here the limit is lowered instead of the model being large."""
    made = lpcompile.compile(toy("matmul_bias"), calibration=toy_calls("matmul_bias"), recipe="int8")
    save = io.save
    monkeypatch.setattr(io, "save", lambda proto, path: save(proto, path, threshold_bytes=10))
    monkeypatch.setattr(io, "_KEPT_INLINE_BYTES", 16)
    made.write(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.onnx", "model.onnx.data", "report.json", "report.html", "decisions.toml",
    }  # fmt: skip
    feeds = toy_calls("matmul_bias")[0]
    again = lpcompile.load(tmp_path / "out")
    for name, value in made.run(feeds).items():
        np.testing.assert_array_equal(again.run(feeds)[name], value)


def test_a_model_of_constants_only_and_one_without_layers() -> None:
    for text in (
        "m () => (float[2] y) <float[2] c = {1, 2}> { y = Relu (c) }",
        "m (float[N,4] x) => (float[N,4] y) { y = Softmax (x) }",
    ):
        made = lpcompile.compile(parse_model(text))
        assert made.report["layers"] == []
        assert made.report["totals"]["weight_bytes"] == 0
