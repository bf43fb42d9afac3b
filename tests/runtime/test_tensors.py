"""Inner tensors of a float and a quantised model, read as real values."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcompile.errors import ModelError
from lpcompile.runtime.tensors import Origin, open_tensors

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
FLOAT = HEADER + "g (float[n] x) => (float[n] y) { t = Relu(x) u = Neg(t) y = Abs(u) }"
QUANTISED = (
    HEADER
    + """
g (float[n] x) => (float[n] y) <float s = {0.5}, uint8 z = {3}, int64[1] u = {1}> {
    f = Relu(x) t = QuantizeLinear(f, s, z) v = DequantizeLinear(t, s, z) w = Neg(v) y = Abs(w)
}"""
)


def test_codes_are_compared_by_their_values(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(FLOAT), tmp_path / "a.onnx")
    onnx.save(onnx.parser.parse_model(QUANTISED), tmp_path / "b.onnx")
    shared = open_tensors(tmp_path / "a.onnx", tmp_path / "b.onnx", threads=1)
    feeds = {shared.inputs[0].name: np.array([-1.0, 0.6, 2.0], np.float32)}
    a, b = shared.first(feeds), shared.second(feeds)
    assert shared.origins["t"].sources == ("x",)
    assert shared.origins["y"] == Origin("Abs_2", "Abs", ("t",), is_output=True)
    assert list(a) == ["t", "y"]  # u is a constant in the second model, v and w are only there
    np.testing.assert_array_equal(a["t"], np.array([0, 0.6, 2], np.float32))
    np.testing.assert_array_equal(b["t"], np.array([0, 0.5, 2], np.float32))


def test_codes_are_found_by_their_suffix(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(FLOAT), tmp_path / "a.onnx")
    text = QUANTISED.replace("t = Q", "t_quantized = Q").replace("(t, s", "(t_quantized, s")
    onnx.save(onnx.parser.parse_model(text), tmp_path / "b.onnx")
    shared = open_tensors(tmp_path / "a.onnx", tmp_path / "b.onnx", threads=1)
    np.testing.assert_array_equal(
        shared.second({"x": np.array([0.6], np.float32)})["t"], np.array([0.5], np.float32)
    )


def test_models_without_a_common_tensor(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(FLOAT), tmp_path / "a.onnx")
    onnx.save(
        onnx.parser.parse_model(HEADER + "g (float[n] x) => (float[n] q) { q = Abs(x) }"), tmp_path / "b.onnx"
    )
    with pytest.raises(ModelError, match="no tensor of the same name"):
        open_tensors(tmp_path / "a.onnx", tmp_path / "b.onnx")
