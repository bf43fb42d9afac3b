"""The user's own measure of a model: `--metric package.module:function`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from lpcompile.analysis.imported import imported, is_reference
from lpcompile.errors import MetricError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.session import Session

_FORM = "a metric is package.module:function; the function takes an onnxruntime.InferenceSession and gives a number"


@dataclass(frozen=True)
class Metric:
    """A function of a loaded model.

    Attributes:
        reference: package.module:function.
        function: takes an `onnxruntime.InferenceSession`, gives a number; larger is better, unless it has an attribute
            `smaller_is_better` that is true.
    """

    reference: str
    function: Callable[[Any], Any]

    @property
    def smaller_is_better(self) -> bool:
        """As the function says of itself."""
        return bool(getattr(self.function, "smaller_is_better", False))

    def of_session(self, session: Session) -> float:
        """The score of a loaded model.

        Raises:
            MetricError: the function fails or gives no finite number.
        """
        try:
            given = self.function(session.raw)
        except Exception as failure:  # user code: whatever it raises
            raise MetricError(
                f"failed: {type(failure).__name__}: {failure}", where=self.reference, hint=_FORM
            ) from failure
        try:
            value = float(given)
        except (TypeError, ValueError) as failure:
            raise MetricError(
                f"gave a {type(given).__name__}, no number", where=self.reference, hint=_FORM
            ) from failure
        if not math.isfinite(value):
            raise MetricError(f"gave {value}", where=self.reference, hint=_FORM)
        return value

    def of_model(self, model: LpGraph | onnx.ModelProto, *, threads: int = 0) -> float:
        """The score of a model."""
        return self.of_session(Session(model, threads=threads))

    def drop(self, reference: float, value: float) -> float:
        """How much worse a score is than that of the float model; negative where it is better."""
        return value - reference if self.smaller_is_better else reference - value


def load_metric(given: str | Callable[[Any], Any]) -> Metric:
    """A metric by its name, or of a function.

    Args:
        given: package.module:function, or the function.

    Raises:
        MetricError: it is not of that form, cannot be imported or is no function.
    """
    if not isinstance(given, str):
        return Metric(_name_of(given), _function(given, _name_of(given)))
    if not is_reference(given):
        raise MetricError(f"'{given}' names no function", hint=_FORM)
    return Metric(given, _function(imported(given, MetricError), given))


def _name_of(function: Any) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def _function(found: Any, reference: str) -> Callable[[Any], Any]:
    if not callable(found):
        raise MetricError(f"is a {type(found).__name__}, no function", where=reference, hint=_FORM)
    function: Callable[[Any], Any] = found
    return function
