"""What a compiled model is measured by: its outputs against the float model's, and the user's own metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from lpcompile.analysis.calibration import Feeds
from lpcompile.emission import Gate, emit
from lpcompile.ir.graph import LpGraph
from lpcompile.prepared import Prepared
from lpcompile.runtime.metric import Metric
from lpcompile.target import Options


@dataclass(frozen=True)
class Yardstick:
    """The measure of one compilation.

    Attributes:
        options: of the compilation.
        metric: the user's, or None.
        reference: what it gives for the float model.
    """

    options: Options
    metric: Metric | None = None
    reference: float = 0.0

    @classmethod
    def of(cls, metric: Metric | None, graph: LpGraph, options: Options) -> "Yardstick":
        """With the float model measured once."""
        if metric is None:
            return cls(options)
        return cls(options, metric, metric.of_model(graph, threads=options.threads))

    def values(
        self, prepared: Prepared, graph: LpGraph, calls: Sequence[Feeds], expected: Sequence[Feeds]
    ) -> dict[str, float | None]:
        """By the names of `budget.MEASURED`, for a graph and its finished plan; it is emitted for that.

        Args:
            prepared: the compilation.
            graph: its plan may fall back where the gate asks for it.
            calls: to run.
            expected: outputs of the float model on them.
        """
        gate = Gate(calls, expected, prepared.allowed, None, prepared.recipe)
        emission = emit(graph, prepared.target, self.options, gate)
        comparison = emission.verdict.comparison
        values: dict[str, float | None] = {"sqnr-db": comparison.sqnr_db, "agreement": comparison.agreement}
        if self.metric is not None:
            values["metric-drop"] = self.drop(emission.emitted.model)
        return values

    def drop(self, model: onnx.ModelProto) -> float:
        """How much worse a model is than the float one by the user's metric."""
        assert self.metric is not None
        return self.metric.drop(self.reference, self.metric.of_model(model, threads=self.options.threads))

    def document(self, model: onnx.ModelProto) -> dict[str, Any]:
        """For the report."""
        assert self.metric is not None
        drop = self.drop(model)
        sign = 1 if self.metric.smaller_is_better else -1
        return {
            "function": self.metric.reference,
            "smaller_is_better": self.metric.smaller_is_better,
            "float": self.reference,
            "compiled": self.reference + sign * drop,
            "drop": drop,
        }
