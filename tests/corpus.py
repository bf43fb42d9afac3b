"""Models that ship with the onnx package, with inputs recorded beside them: foreign graphs to try."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
NEWEST_IR, NEWEST_OPSET = 10, 24  # the generator stamps versions that runtimes do not read yet
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Case:
    """One model; feeds and outputs are None where none are recorded, or they are no tensors."""

    name: str
    model: ModelProto
    feeds: dict[str, Any] | None = None
    outputs: list[Any] | None = None


def file_names() -> list[str]:
    """Every model file, relative to DATA."""
    return sorted(str(p.relative_to(DATA)) for p in DATA.rglob("*.onnx"))


def file_case(name: str) -> Case:
    """A model file with what is recorded beside it."""
    path = DATA / name
    model = onnx.load(path)
    fed = _fed(model)
    inputs = _recorded(path, "input", fed)
    feeds = None if inputs is None else {i.name: a for i, a in zip(fed, inputs, strict=True)}
    return Case(name, model, feeds, _recorded(path, "output", list(model.graph.output)))


def _recorded(path: Path, kind: str, infos: list[onnx.ValueInfoProto]) -> list[Any] | None:
    files = [path.parent / "test_data_set_0" / f"{kind}_{i}.pb" for i in range(len(infos))]
    if not all(f.exists() for f in files) or any(not i.type.HasField("tensor_type") for i in infos):
        return None
    return [onnx.numpy_helper.to_array(onnx.TensorProto.FromString(f.read_bytes())) for f in files]


def _fed(model: ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def node_cases() -> Iterator[Case]:
    """The single-operator cases; those of layers a second time with their weights as constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    for case in cases:
        assert case.model is not None
        assert case.data_sets is not None
        _stamp(case.model)
        inputs, outputs = case.data_sets[0]
        names = [i.name for i in case.model.graph.input]
        tensors = all(isinstance(a, (np.ndarray, np.generic)) for a in inputs) and len(names) == len(inputs)
        feeds = dict(zip(names, map(np.asarray, inputs), strict=True)) if tensors else None
        yield Case(case.name, case.model, feeds, list(outputs))
        if feeds is not None and case.model.graph.node[0].op_type in WEIGHTED:
            yield with_constant_weights(Case(case.name, case.model, feeds, list(outputs)))


def _stamp(model: ModelProto) -> None:
    """Versions that a released runtime reads: most operators did not change with the newest."""
    model.ir_version = min(model.ir_version, NEWEST_IR)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, NEWEST_OPSET)


def with_constant_weights(case: Case) -> Case:
    """The same with every input but the first one constant, as in a trained network."""
    assert case.feeds is not None
    model = ModelProto()
    model.CopyFrom(case.model)
    first, *rest = case.model.graph.input
    del model.graph.input[1:]
    for info in rest:
        model.graph.initializer.append(onnx.numpy_helper.from_array(case.feeds[info.name], info.name))
    return Case(f"{case.name}_constant_weights", model, {first.name: case.feeds[first.name]}, case.outputs)
