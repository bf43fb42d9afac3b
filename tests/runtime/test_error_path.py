"""Where the error of a damaged model enters, and what is no error."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.runtime.channel_fit import ChannelFit
from lpcompile.runtime.compare import EXACT_DB
from lpcompile.runtime.error_path import ErrorPath, error_path
from lpcompile.runtime.tensors import open_tensors
from tests.support import Array, parse_model

CHAIN = """
    chain (float[4,8] x) => (float[4,8] y) <float[8,8] a, float[8,8] b, float[8,8] c>
    { [one] t = MatMul (x, a)  [two] u = MatMul (t, b)  [three] v = Relu (u)  [four] y = MatMul (v, c) }"""
RNG = np.random.default_rng(3)


def damaged(model: ModelProto, weight: str, noise: float) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    for t in other.graph.initializer:
        if t.name == weight:
            w = numpy_helper.to_array(t)
            t.CopyFrom(
                numpy_helper.from_array(w + (noise * RNG.normal(size=w.shape)).astype(np.float32), t.name)
            )
    return other


def path_of(a: ModelProto, b: ModelProto, folder: Path) -> ErrorPath:
    onnx.save(a, folder / "a.onnx")
    onnx.save(b, folder / "b.onnx")
    shared = open_tensors(folder / "a.onnx", folder / "b.onnx", threads=1)
    shape = [d.dim_value for d in a.graph.input[0].type.tensor_type.shape.dim]
    calls = [{"x": RNG.normal(size=shape).astype(np.float32)} for _ in range(4)]
    return error_path(shared, calls)


@pytest.mark.parametrize(
    ("weight", "node", "tensor"), [("a", "one", "t"), ("b", "two", "u"), ("c", "four", "y")]
)
def test_the_damaged_layer_is_where_it_enters(weight: str, node: str, tensor: str, tmp_path: Path) -> None:
    model = parse_model(CHAIN)
    found = path_of(model, damaged(model, weight, 0.1), tmp_path)
    assert [p.name for p in found.points] == ["t", "u", "v", "y"]
    assert [(p.origin.node, p.name, p.sources_db) for p in found.entries] == [(node, tensor, EXACT_DB)]
    assert [p.sqnr_db for p in found.points][: "tuvy".index(tensor)] == [EXACT_DB] * "tuvy".index(tensor)
    assert list(found.outputs.tensors) == ["y"]


def test_equal_models_have_no_entry(tmp_path: Path) -> None:
    found = path_of(parse_model(CHAIN), parse_model(CHAIN), tmp_path)
    assert found.entries == []
    assert {p.sqnr_db for p in found.points} == {EXACT_DB}


def test_small_errors_beside_the_last_one_do_not_count(tmp_path: Path) -> None:
    model = parse_model(CHAIN)
    found = path_of(model, damaged(damaged(model, "a", 1e-5), "c", 0.1), tmp_path)
    assert [p.name for p in found.entries] == ["y"]


def test_channels_that_were_scaled_are_no_error(tmp_path: Path) -> None:
    """t in the second model is that of the first, scaled; what reads it takes the scale back."""
    model = parse_model(CHAIN)
    scale = np.linspace(0.2, 3, 8, dtype=np.float32)
    other = ModelProto()
    other.CopyFrom(model)
    for t in other.graph.initializer:
        w = numpy_helper.to_array(t)
        if t.name in "ab":
            t.CopyFrom(numpy_helper.from_array(w * scale if t.name == "a" else w / scale[:, None], t.name))
    found = path_of(model, damaged(other, "c", 0.1), tmp_path)
    assert [(p.name, p.rescaled) for p in found.points] == [
        ("t", True),
        ("u", False),
        ("v", False),
        ("y", False),
    ]
    assert [p.name for p in found.entries] == ["y"]


def test_tensors_of_other_shapes_are_named(tmp_path: Path) -> None:
    other = parse_model("""
        chain (float[4,8] x) => (float[4,8] y) <float[8,6] a, float[6,8] b, float[8,8] c>
        { [one] t = MatMul (x, a)  [two] u = MatMul (t, b)  [three] v = Relu (u)  [four] y = MatMul (v, c) }""")
    found = path_of(parse_model(CHAIN), other, tmp_path)
    assert found.unlike == ["t"]
    assert [p.name for p in found.points] == ["u", "v", "y"]


def fit_of(a: Array, b: Array, parts: int = 2) -> float:
    fit = ChannelFit()
    for x, y in zip(np.split(a, parts), np.split(b, parts), strict=True):
        fit.update(x, y)
    return fit.fit_db


def test_channel_fit_by_hand() -> None:
    a = RNG.normal(size=(8, 3, 5, 5))
    p, q = np.array([2.0, -1.0, 0.5]).reshape(3, 1, 1), np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert fit_of(a, a * p + q) > 150
    noisy = a * p + q + 0.1 * RNG.normal(size=a.shape)
    least = [np.polyfit(a[:, c].ravel(), noisy[:, c].ravel(), 1, full=True)[1][0] for c in range(3)]
    signal = sum(float(((noisy[:, c] - noisy[:, c].mean()) ** 2).sum()) for c in range(3))
    assert fit_of(a, noisy) == pytest.approx(10 * np.log10(signal / sum(least)), abs=1e-6)
    assert fit_of(a, RNG.normal(size=a.shape)) < 1
    assert fit_of(np.moveaxis(a, 1, -1), np.moveaxis(a * p, 1, -1)) > 150  # channels last
    assert ChannelFit().fit_db == -EXACT_DB
