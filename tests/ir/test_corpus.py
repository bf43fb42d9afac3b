"""The models that ship with the onnx package: each comes through unchanged, or is refused in one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from lpcompile.errors import LpcompileError
from lpcompile.ir.io import load
from lpcompile.ir.verify import verify_graph
from tests.support import assert_close, random_feeds, run_model

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
MODELS = sorted(str(p.relative_to(DATA)) for p in DATA.rglob("*.onnx"))
SAMPLE = [m for m in MODELS[::12] if not m.startswith("light")]


def recorded(path: Path, model: ModelProto, kind: str) -> Iterator[tuple[str, Any]]:
    """Inputs or outputs that are recorded beside a model, in the order of the graph."""
    weights = {t.name for t in model.graph.initializer}
    infos = model.graph.input if kind == "input" else model.graph.output
    for i, info in enumerate(info for info in infos if info.name not in weights):
        file = path.parent / "test_data_set_0" / f"{kind}_{i}.pb"
        if not file.exists():
            return
        if info.type.HasField("sequence_type"):
            yield info.name, onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(file.read_bytes()))
        else:
            yield info.name, onnx.numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


def feeds_of(path: Path, model: ModelProto) -> dict[str, Any]:
    return dict(recorded(path, model, "input")) or random_feeds(model)


def outputs_of(model: ModelProto, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """What ONNX Runtime computes; None where it has no kernel for such an old or odd model."""
    try:
        return run_model(model, feeds)
    except (
        ort.capi.onnxruntime_pybind11_state.NotImplemented,
        ort.capi.onnxruntime_pybind11_state.Fail,
        ort.capi.onnxruntime_pybind11_state.InvalidArgument,
        ort.capi.onnxruntime_pybind11_state.RuntimeException,
    ):
        return None
    except RuntimeError as error:
        if not any(
            w in str(error) for w in ("can't be converted to MLDataType", "No corresponding Numpy type")
        ):
            raise
        return None  # with the oldest packages numbers of 4 bits and FP8 cannot be fed or fetched


def check_round_trip(name: str) -> None:
    path = DATA / name
    model = onnx.load(path)
    try:
        graph = load(path)
    except LpcompileError as error:
        pytest.fail(f"{name} was refused: {error}")
    verify_graph(graph)
    after = graph.to_proto()
    feeds = feeds_of(path, model)
    wanted = outputs_of(model, feeds)
    if wanted is None:
        onnx.checker.check_model(after)
        return
    found = run_model(after, feeds)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        assert_close(found[key], value, 0.0, key)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_comes_through(name: str) -> None:
    check_round_trip(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_through(name: str) -> None:
    check_round_trip(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [m for m in MODELS if m.startswith("pytorch")])
def test_every_recorded_model_at_opset_17(name: str) -> None:
    """ONNX Runtime has no kernels for many of these opsets; the recorded outputs are the oracle."""
    path = DATA / name
    model = onnx.load(path)
    graph = load(path)
    assert graph.raise_opset(17) is None
    found = run_model(graph.to_proto(), feeds_of(path, model))
    for key, value in recorded(path, model, "output"):
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4)
