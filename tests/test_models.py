"""The shipped models are what `models/models.toml` says they are."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
RECORDS: dict[str, dict[str, Any]] = tomllib.loads((MODELS / "models.toml").read_text("utf-8"))
TOYS = sorted((MODELS / "toy").glob("*.onnxtxt"))


def test_every_model_has_a_record() -> None:
    assert sorted(RECORDS) == sorted(path.stem for path in MODELS.glob("*.onnx"))
    assert {"digits_resnet", "digits_mobilenet", "digits_transformer"} <= set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("file", ["model", "calibration", "evaluation"])
def test_checksum_and_size(name: str, file: str) -> None:
    data = (MODELS / RECORDS[name][file]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == RECORDS[name][f"{file}_sha256"]
    assert len(data) <= 300_000


@pytest.mark.parametrize("name", RECORDS)
def test_model_is_valid_and_holds_what_it_is_for(name: str) -> None:
    model = onnx.load(MODELS / RECORDS[name]["model"])
    onnx.checker.check_model(model, full_check=True)
    (image,) = model.graph.input
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [1, 16, 16]
    ops = {node.op_type for node in model.graph.node}
    wanted = {
        "digits_resnet": {"Conv", "BatchNormalization", "Relu", "Add", "GlobalAveragePool", "Gemm"},
        "digits_mobilenet": {"Conv", "BatchNormalization", "Clip", "Add", "GlobalAveragePool", "Gemm"},
        "digits_preactivation": {"Conv", "BatchNormalization", "Relu", "Add", "GlobalAveragePool", "Gemm"},
        "digits_densenet": {
            "Conv",
            "BatchNormalization",
            "Concat",
            "AveragePool",
            "GlobalAveragePool",
            "Gemm",
        },
        "digits_transformer": {"Conv", "LayerNormalization", "MatMul", "Softmax", "Erf", "Gemm"},
    }
    assert wanted[name] <= ops


@pytest.mark.sweep
@pytest.mark.parametrize("name", RECORDS)
def test_float_accuracy_is_the_recorded_one(name: str) -> None:
    record = RECORDS[name]
    session = ort.InferenceSession(MODELS / record["model"], providers=["CPUExecutionProvider"])
    with np.load(MODELS / record["evaluation"]) as samples:
        (logits,) = session.run(None, {"image": samples["image"]})
        correct = int((logits.argmax(axis=1) == samples["y"]).sum())
        assert len(samples["y"]) == record["evaluation_samples"]
    assert correct == record["evaluation_correct"]
    assert correct / record["evaluation_samples"] == record["float_accuracy"] >= 0.97


@pytest.mark.parametrize("name", RECORDS)
def test_calibration_and_evaluation_share_no_image(name: str) -> None:
    with np.load(MODELS / RECORDS[name]["calibration"]) as calibration:
        assert calibration.files == ["image"]
        seen = {image.tobytes() for image in calibration["image"]}
    with np.load(MODELS / RECORDS[name]["evaluation"]) as evaluation:
        assert seen.isdisjoint(image.tobytes() for image in evaluation["image"])


@pytest.mark.parametrize("path", TOYS, ids=lambda path: path.stem)
def test_toy_parses_and_runs(path: Path) -> None:
    model = onnx.parser.parse_model(path.read_text("utf-8"))
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        i.name: np.array(True)
        if i.type == "tensor(bool)"
        else rng.normal(size=[2, *i.shape[1:]]).astype(np.float32)
        for i in session.get_inputs()
    }
    for result, declared in zip(session.run(None, feeds), session.get_outputs(), strict=True):
        assert list(result.shape) == [2, *declared.shape[1:]]
        assert np.isfinite(result).all()


def test_toys_cover_the_shapes_that_passes_meet() -> None:
    assert {path.stem for path in TOYS} == {
        "concat_branches",
        "conv_bn_relu",
        "depthwise",
        "if_body",
        "matmul_bias",
        "residual_add",
        "shared_weights",
    }
