"""The user's own measure: what it is given, what it may give, and what is said when it fails."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from lpcompile.errors import MetricError
from lpcompile.runtime.metric import load_metric
from tests.support import parse_model

MODEL = parse_model(
    "m (float[N,2] x) => (float[N,1] y) <float[2,1] w = {3, 4}> { y = MatMul (x, w) }", check=False
)
MODULE = """
import numpy as np

def total(session):
    (y,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    return y.sum()

def loss(session):
    return total(session)

loss.smaller_is_better = True
constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that lies in the current folder."""
    (tmp_path / "my_measures.py").write_text(MODULE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_measures", raising=False)
    return "my_measures"


def test_a_function_of_a_module_in_the_current_folder_gets_a_session(module: str) -> None:
    metric = load_metric(f"{module}:total")
    assert metric.of_model(MODEL) == 7.0
    assert not metric.smaller_is_better
    assert metric.drop(7.0, 6.5) == 0.5
    assert str(Path.cwd()) not in sys.path


def test_a_function_can_say_that_smaller_is_better(module: str) -> None:
    metric = load_metric(f"{module}:loss")
    assert metric.smaller_is_better
    assert metric.drop(7.0, 6.5) == -0.5


class Measure:
    """A metric with a state."""

    smaller_is_better = True

    def __call__(self, session: ort.InferenceSession) -> float:
        """The first weight."""
        (y,) = session.run(None, {"x": np.asarray([[1, 0]], np.float32)})
        return float(y[0, 0])


def test_functions_and_callable_objects_are_named_by_their_qualified_names() -> None:
    assert load_metric(Measure()).reference == f"{__name__}:Measure"
    assert load_metric(Measure()).of_model(MODEL) == 3.0
    assert load_metric(Measure()).smaller_is_better
    name = "test_functions_and_callable_objects_are_named_by_their_qualified_names.<locals>.<lambda>"
    assert load_metric(lambda _: 0).reference == f"{__name__}:{name}"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("my_measures", "names no function"),
        ("my_measures.py:total", "cannot be imported"),
        ("my measures:total", "names no function"),
        ("my_measures:missing", "cannot be imported: AttributeError"),
        ("no_such_module_of_mine:total", "cannot be imported: ModuleNotFoundError"),
        ("my_measures:constant", "is a int, no function"),
    ],
)
def test_what_is_no_function_of_a_module_is_refused(module: str, reference: str, said: str) -> None:
    with pytest.raises(MetricError, match=said) as caught:
        load_metric(reference)
    assert caught.value.hint


def test_what_is_no_function_at_all_is_refused() -> None:
    given: Any = 3
    with pytest.raises(MetricError, match="is a int, no function"):
        load_metric(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (math.nan, "gave nan"),
        (math.inf, "gave inf"),
        (None, "gave a NoneType, no number"),
        ("good", "gave a str, no number"),
        ([1, 2], "gave a list, no number"),
    ],
)
def test_what_is_no_number_is_refused(given: object, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        load_metric(lambda _: given).of_model(MODEL)


@pytest.mark.parametrize("given", [True, 1, np.float32(1), np.asarray(1.0)])
def test_numbers_of_any_kind_are_taken(given: object) -> None:
    assert load_metric(lambda _: given).of_model(MODEL) == 1.0


def test_a_metric_that_fails_is_named_with_its_failure() -> None:
    def broken(session: ort.InferenceSession) -> float:
        raise KeyError("labels")

    with pytest.raises(MetricError, match=r"broken: failed: KeyError: 'labels'"):
        load_metric(broken).of_model(MODEL)
