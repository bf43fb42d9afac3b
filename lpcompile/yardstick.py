"""What a compiled model is measured by: its outputs against the float model's, and the user's own metric."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import onnx

from lpcompile.emission import Emission
from lpcompile.ir.graph import LpGraph
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
    _drops: dict[bytes, float] = field(
        default_factory=dict, repr=False
    )  # by model: a metric may take minutes

    @classmethod
    def of(cls, metric: Metric | None, graph: LpGraph, options: Options) -> "Yardstick":
        """With the float model measured once."""
        if metric is None:
            return cls(options)
        return cls(options, metric, metric.of_model(graph, threads=options.threads))

    def values(self, emission: Emission) -> dict[str, float | None]:
        """Of a compiled model, by the names of `budget.MEASURED`, on the calls it was judged on."""
        comparison = emission.verdict.comparison
        values: dict[str, float | None] = {"sqnr-db": comparison.sqnr_db, "agreement": comparison.agreement}
        if self.metric is not None:
            values["metric-drop"] = self.drop(emission.emitted.model)
        return values

    def drop(self, model: onnx.ModelProto) -> float:
        """How much worse a model is than the float one by the user's metric."""
        assert self.metric is not None
        key = hashlib.sha256(model.SerializeToString(deterministic=True)).digest()
        if key not in self._drops:
            score = self.metric.of_model(model, threads=self.options.threads)
            self._drops[key] = self.metric.drop(self.reference, score)
        return self._drops[key]

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
