"""Foreign models through the whole compiler: each agrees with float, or ends with a documented error.

The cost table is taken away, so that small layers run on integers where they can.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.errors import CalibrationError, InputError, LpcompileError, TargetError
from lpcompile.recipes import load_recipe
from tests.corpus import WEIGHTED, Case, file_case, file_names, node_cases
from tests.networks import without_costs

FILES = file_names()
SAMPLE = [n for n in FILES[::6] if not n.startswith("light")]
EXACT_DB = 80.0  # 1e-4 of the output's norm: rewrites change the order of float sums
HALF_DB = (
    60.0  # float16 graphs are computed in float32: a float16 runtime itself rounds at 66 dB, several times
)
DOCUMENTED = (InputError, TargetError)  # exit codes 3 and 5
FLOATS = ("float16", "bfloat16", "float32", "float64")


@pytest.fixture(autouse=True)
def integers_wherever_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


def check_case(case: Case, recipe: str, target: str = "ort") -> str:
    """Compile and compare; what became of it, for the tally of the sweep."""
    try:
        compiled = compiled_with_its_inputs(case, recipe, target)
    except DOCUMENTED as error:
        check_text(error)
        return "refused"
    layers = {row["name"]: row for row in compiled.report["layers"]}
    silent = [
        n for n, row in layers.items() if row["weight_format"].startswith("float3") and not row["reason"]
    ]
    assert not silent, f"float without a reason: {silent}"
    assert len(layers) >= constant_layers(case.model), "layers are missing from the report"
    if case.feeds is None:
        return "compiled"
    wanted, again = (run(case.model, case.feeds) for _ in range(2))
    if wanted is not None and again is not None and sqnr_db(wanted, again) < EXACT_DB:
        return "compiled"  # it draws random numbers
    found = run(compiled.model, case.feeds)
    if wanted is None and (found is None or case.outputs is None):
        return "compiled"  # the runtime refuses the float model too
    wanted = wanted if wanted is not None else case.outputs
    assert wanted is not None
    assert found is not None, "the compiled model does not run"
    quantised = not all(map(is_float, layers.values()))
    bound = load_recipe(recipe).min_sqnr_db if quantised else HALF_DB if is_half(case.model) else EXACT_DB
    assert sqnr_db(wanted, found) >= bound, f"{sqnr_db(wanted, found):.1f} dB"
    return "agrees, quantised" if quantised else "agrees"


def check_text(error: LpcompileError) -> None:
    """One line that says what, and a hint."""
    assert error.message
    assert "\n" not in error.message
    assert error.hint


def compiled_with_its_inputs(case: Case, recipe: str, target: str) -> lpcompile.Artefacts:
    """Calibrated with the recorded inputs where they fit, else without data."""
    if case.feeds is not None:
        try:
            return lpcompile.compile(case.model, target=target, recipe=recipe, calibration=[case.feeds])
        except CalibrationError as error:
            check_text(error)
    return lpcompile.compile(case.model, target=target, recipe=recipe)


def is_float(row: dict[str, Any]) -> bool:
    """Whether a layer of the report kept its weights."""
    return bool(row["weight_format"].startswith(FLOATS))


def is_half(model: ModelProto) -> bool:
    """Whether a model gives float16 numbers."""
    return any(o.type.tensor_type.elem_type == 10 for o in model.graph.output)


def constant_layers(model: ModelProto) -> int:
    """Top-level layers whose weights are initialisers of a float type."""
    floats = {t.name for t in model.graph.initializer if t.data_type in (1, 10, 11)}
    return sum(n.op_type in WEIGHTED and not n.domain and n.input[1] in floats for n in model.graph.node)


def run(model: ModelProto, feeds: dict[str, Any]) -> list[Any] | None:
    """Outputs in stock ONNX Runtime; None where it cannot load or run the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(None, feeds))
    except Exception:  # the runtime's errors share no base class
        return None


def sqnr_db(wanted: list[Any], found: list[Any]) -> float:
    """Of the worst float output, within +-200; -200 where shapes, types or non-floats differ."""
    assert len(wanted) == len(found)
    return min((_sqnr_db(a, b) for a, b in zip(wanted, found, strict=True)), default=200.0)


def _sqnr_db(wanted: Any, found: Any) -> float:
    if isinstance(wanted, list):
        assert isinstance(found, list)
        return sqnr_db(wanted, found)
    if wanted is None or found is None:
        return 200.0 if wanted is found else -200.0
    a, b = np.asarray(wanted), np.asarray(found)
    if a.shape != b.shape or a.dtype != b.dtype:
        return -200.0
    if a.dtype.name not in FLOATS:
        return 200.0 if np.array_equal(a, b) else -200.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return -200.0
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    largest = np.abs(a).max(initial=1e-20)  # some recorded inputs are 1e300
    noise, signal = (((a - b) / largest) ** 2).sum(), ((a / largest) ** 2).sum()
    return 200.0 if noise == 0 else float(10 * np.log10(signal / noise))


@pytest.mark.sweep
@pytest.mark.parametrize("target", ["ort", "cim"])
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_agrees_with_float(name: str, target: str) -> None:
    check_case(file_case(name), "int8", target)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "int8", "w4a8"])
def test_every_model_file(recipe: str) -> None:
    outcomes = swept((file_case(n) for n in FILES), recipe)
    assert outcomes["refused"] <= 0.1 * len(FILES)
    assert recipe == "fp32" or outcomes["agrees, quantised"] >= 25


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_every_single_operator(recipe: str) -> None:
    outcomes = swept(node_cases(), recipe)
    assert outcomes["agrees, quantised"] >= 25
    assert sum(outcomes.values()) >= 1800


def swept(cases: Iterable[Case], recipe: str) -> Counter[str]:
    """Check every case; the failures of all at once."""
    outcomes: Counter[str] = Counter()
    failures = []
    for case in cases:
        try:
            outcomes[check_case(case, recipe)] += 1
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    return outcomes
