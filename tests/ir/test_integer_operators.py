"""Models that were quantised before: by ONNX Runtime's own tools in both forms, and by this one."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.integer_operators import quantised_before
from tests.support import parse_model, random_feeds

MODEL = """m (float[1,4,6,6] x) => (float[1,8] y) <float[8,4,3,3] w, float[8,8] v> {
    [conv] a = Conv (x, w)  p = GlobalAveragePool (a)  f = Flatten (p)  [head] y = MatMul (f, v)
}"""


class Reader:
    """Samples as ONNX Runtime takes them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._left = [random_feeds(model, seed=i) for i in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """One of them."""
        return self._left.pop() if self._left else None


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return parse_model(MODEL)


def test_a_float_model_was_not(model: onnx.ModelProto) -> None:
    assert quantised_before(LpGraph.from_proto(model)) is None


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (QuantFormat.QDQ, ["1 Conv of dequantised weights", "1 MatMul of dequantised weights"]),
        (QuantFormat.QOperator, ["1 QLinearConv", "1 QLinearMatMul"]),
    ],
)
def test_static(model: onnx.ModelProto, form: QuantFormat, found: list[str], tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(model), quant_format=form)
    text = quantised_before(LpGraph.from_proto(onnx.load(tmp_path / "int8.onnx")))
    assert text is not None
    assert sorted(text.split(", ")) == found


def test_a_compilation_says_so(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", op_types_to_quantize=["MatMul"])
    made = lpcompile.compile(tmp_path / "int8.onnx", recipe="fp32")
    (warning,) = [w for w in made.report["warnings"] if "quantised before" in w]
    assert "1 MatMulInteger" in warning
