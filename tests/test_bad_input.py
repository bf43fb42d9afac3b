"""Everything a user can hand over broken: exit code, one line and a hint, and nothing written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from tests.cli.cli_runner import error_lines
from tests.networks import shipped
from tests.support import parse_model

NAME = "digits_mobilenet"
GOOD = shipped(NAME).read_bytes()
SHAPE = (4, 1, 16, 16)


def refused(folder: Path, model: Path, *words: object, code: int = 3) -> tuple[str, str]:
    """Error and hint of a compilation that must fail with `code` and leave nothing."""
    out = folder / "out" / "deeper"
    lines = error_lines(model, "-t", "ort", "-o", out, *words, code=code)
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert "internal error" not in lines[0]
    assert lines[1].startswith("hint: ")
    assert not (folder / "out").exists()
    return lines[0], lines[1]


def nan_weights() -> ModelProto:
    model = onnx.load_from_string(GOOD)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def lost_weights() -> ModelProto:
    model = onnx.load_from_string(GOOD)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "lost.bin"
    return model


def escaping_weights() -> ModelProto:
    model = lost_weights()
    entry = next(t for t in model.graph.initializer if t.external_data).external_data[0]
    entry.value = "../../etc/passwd"
    return model


def short_weights() -> ModelProto:
    model = onnx.load_from_string(GOOD)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.raw_data = tensor.raw_data[:-8]
    return model


def empty_graph() -> ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))


def unknown_operator() -> ModelProto:
    return parse_model("m (float[2] x) => (float[2] y) { y = Frobnicate (x) }", check=False)


def dangling() -> ModelProto:
    return parse_model("m (float[2] x) => (float[2] y) { y = Relu (z) }", check=False)


def cyclic() -> ModelProto:
    text = "m (float[2] x) => (float[2] y) { a = Add (x, b)  b = Relu (a)  y = Relu (b) }"
    return parse_model(text, check=False)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (lambda: GOOD[: len(GOOD) // 2], "truncated", "written whole by an exporter"),
        (lambda: GOOD[:-1], "truncated", "written whole by an exporter"),
        (lambda: b"hello world, this is no model", "no ONNX model", "give an ONNX model"),
        (lambda: b"", "the file is empty", "give an ONNX model"),
        (empty_graph, "", ""),
        (nan_weights, "holds 1 NaN or infinite values", "weights are finite"),
        (lost_weights, "external data file 'lost.bin' is missing", "folder of the model"),
        (escaping_weights, "is not allowed", "folder of the model"),
        (short_weights, "", ""),
        (unknown_operator, "Frobnicate", ""),
        (dangling, "z", ""),
        (cyclic, "", ""),
    ],
    ids=lambda v: getattr(v, "__name__", None) if callable(v) else "",
)
def test_models(content: Callable[[], bytes | ModelProto], message: str, hint: str, tmp_path: Path) -> None:
    made = content()
    path = tmp_path / "bad.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    error, mend = refused(tmp_path, path)
    assert str(path) in error or path.name in error
    assert message in error
    assert hint in mend


def images(
    shape: tuple[int, ...] = SHAPE, dtype: Any = np.float32, value: object = 0
) -> dict[str, np.ndarray]:
    return {"image": np.full(shape, value, dtype)}


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("arrays", "message", "hint"),
    [
        (
            {"imag": np.zeros(SHAPE, np.float32)},
            "no array for input 'image', only for: imag",
            "'imag' meant for it",
        ),
        ({}, "no array for input 'image', only for: nothing", "the model takes image"),
        (images((4, 16, 16)), "the model takes ", ""),
        (images((4, 1, 16, 15)), "is 1x1x16x15, the model takes ", "an array of the input's rank"),
        (images((4, 3, 16, 16)), "the model takes ", ""),
        (images(()), "image", ""),
        (images(dtype=np.uint8), "holds integers (uint8), the model takes float32", "after normalising"),
        (images(dtype="U1", value="x"), "holds text", "convert it"),
        (images(dtype=np.complex64), "holds complex numbers", "convert it"),
        (images(value=np.nan), "holds NaN or infinity", "first at index 0,0,0,0"),
        (images(value=np.inf), "holds NaN or infinity", "first at index"),
        (images(dtype=np.float64, value=1e300), "holds values that float32 cannot hold", "the model takes"),
        (images((0, 1, 16, 16)), "holds no samples", "16 to 64 samples"),
    ],
)
def test_calibration_arrays(arrays: dict[str, np.ndarray], message: str, hint: str, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, **arrays)  # type: ignore[arg-type]
    error, mend = refused(tmp_path, shipped(NAME), "--calibration-data", data)
    assert str(data) in error
    assert message in error
    assert hint in mend


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"PK\x03\x04junk", "damaged, or not a numpy file"), (b"", "damaged"), (None, "there is no such file")],
)
def test_calibration_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    if content is not None:
        data.write_bytes(content)
    assert message in refused(tmp_path, shipped(NAME), "--calibration-data", data)[0]


def test_pickled_samples_are_not_loaded(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, image=np.array([{"code": "runs here"}], object))
    error, mend = refused(tmp_path, shipped(NAME), "--calibration-data", data)
    assert "holds Python objects, which are not loaded" in error
    assert "astype" in mend


INT8 = """
name = "mine"
pipeline = '''fold-constants, canonicalize, fold-batchnorm,
quantize-activations, quantize-weights{format=int8, rule=mse}'''
"""


@pytest.mark.parametrize(
    ("text", "message", "hint", "code"),
    [
        ("[[[", "not TOML", "prints a recipe to start from", 3),
        ("name = 3\npipeline = 'canonicalize'", "'name' has the wrong type", "recipes int8", 3),
        ("name = 'x'", "'pipeline' is missing", "recipes int8", 3),
        (INT8 + "\nmin-sqnr = 3.0", "unknown key 'min-sqnr'", "min-sqnr-db", 3),
        (INT8.replace("fold-batchnorm", "fold-batchnrm"), "fold-batchnrm", "fold-batchnorm", 3),
        (INT8.replace("format=int8", "format=int99"), "int99", "", 3),
        (INT8.replace("rule=mse", "rule=guess"), "guess", "", 2),
        (INT8.replace("rule=mse", "rules=mse"), "has no option 'rules'", "options are", 2),
        (INT8.replace("quantize-activations, ", ""), "requires 'activations-quantized'", "put ", 2),
        (INT8.replace("fold-constants,", "{fold-constants,"), "", "", 3),
    ],
)  # fmt: skip
def test_recipe_files(text: str, message: str, hint: str, code: int, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    error, mend = refused(tmp_path, shipped(NAME), "--recipe", recipe, code=code)
    assert message in error
    assert hint in mend


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"[" * 50_000])
def test_recipe_files_that_are_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    refused(tmp_path, shipped(NAME), "--recipe", tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[[[", "not TOML"), ("schema = 1\n[layers.nobody]\nkernel = 'float'", "there is no layer 'nobody'"),
     ("", "schema None"), ("schema = 1\n[made_for]\npipeline = 'nonsense'", "nonsense")],
)  # fmt: skip
def test_decisions_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "decisions.toml"
    file.write_text(text)
    code = 2 if "nonsense" in text else 3
    assert message in refused(tmp_path, shipped(NAME), "--decisions", file, code=code)[0]
