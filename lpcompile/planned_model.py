"""A float model and what plan passes decided about it: what they take and give when they are called as functions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from onnx import ModelProto

from lpcompile.acceptance import check_options, check_rounded
from lpcompile.decisions import Decisions, write_decisions
from lpcompile.errors import PipelineError, TargetError
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import Pass, PassContext, Pipeline, pipeline_text
from lpcompile.plan import Kernel, LayerPlan, QuantPlan
from lpcompile.provenance import data_sha256, sha256_of
from lpcompile.quant.eighth_image import CodeBlocks, EighthImage
from lpcompile.records import PassReport
from lpcompile.report.document import versions
from lpcompile.target import FLOAT8_FORM, FLOAT8_OPSET, INTEGER_FORM, Options, Target

ONE_BY_ONE = "passes"  # stands for a recipe where passes were called as functions
CACHES = ("statistics", "metrics", "without_metric", "scored", "finalists", "rounded")  # of `PassContext`


@dataclass(frozen=True, eq=False)
class PlannedModel:
    """A float model, a plan beside it, and what the passes that made it know. No pass changes it: each gives another.

    Made by `lpcompile.passes.quantize_activations` or `dual_precision`, carried on by the other plan passes, and taken
    up by `materialise`, or by `lpcompile.compile(planned, output=...)`, which also verifies and reports.

    Attributes:
        source: the float model that the plan is for.
        options: what was given beside options of passes: seed, threads, ...
        passes: that were called, in order.
        reports: what they said.
    """

    source: ModelProto
    options: Options
    passes: tuple[Pass, ...]
    reports: tuple[PassReport, ...]
    _graph: LpGraph
    _context: PassContext

    @property
    def target(self) -> Target:
        """Where the result shall run."""
        assert self._context.target is not None
        return self._context.target

    @property
    def plan(self) -> QuantPlan:
        """What was decided: layers, activations, elementwise nodes, norms, requantisations, by name."""
        return self._graph.plan

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should read."""
        return tuple(dict.fromkeys(self._context.warnings))

    @property
    def pipeline(self) -> str:
        """The passes as pipeline text."""
        return pipeline_text(self.passes)

    @property
    def decisions(self) -> str:
        """The plan as text of `decisions.toml`, which `lpcompile.compile(source, decisions=FILE)` replays."""
        header = {
            "model_sha256": sha256_of(self.source),
            "data_sha256": data_sha256(self._context.calibration),
            "pipeline": self.pipeline,
            "recipe": ONE_BY_ONE,
            "target": self.target.name,
            "seed": str(self.options.seed),
            "emit": self.options.emit,
            "reduce_range": "on" if self.plan.reduce_range else "",
        }
        return write_decisions(Decisions(header, versions(), self.plan))

    def materialise(self, *, emit: str = "functions") -> ModelProto:
        """The model with the plan carried out, as stock ONNX Runtime runs it. It is not verified; `compile` does that.

        Args:
            emit: "functions", "standard", "qdq", "fp8-qdq" or "integer", as the target knows them.

        Raises:
            PipelineError: weights are planned that no pass has rounded, or the target has no such form.
        """
        options = replace(self.options, emit=emit)
        check_options(self.target, options)
        return self.target.emit(complete_graph(self, emit), options).model


def complete_graph(planned: PlannedModel, emit: str) -> LpGraph:
    """A copy of the float graph with the whole plan, ready to be emitted in a form.

    Raises:
        PipelineError: weights are planned that no pass has rounded, or the form is for layers that are not planned.
        TargetError: the form needs an opset that the model cannot be raised to.
    """
    check_rounded(planned.plan, "give the plan to lpcompile.passes.quantize_weights first")
    graph = planned._graph.copy()
    if emit == INTEGER_FORM and all(not _is_without_float8(v) for v in planned.plan.layers.values()):
        raise PipelineError(
            f"the form '{emit}' writes layers of 'dual-precision' on integers, and none is planned",
            hint="plan with lpcompile.passes.dual_precision, then lpcompile.passes.run_on_integers",
        )
    if emit == FLOAT8_FORM:
        if all(v.kernel is not Kernel.FLOAT8 for v in planned.plan.layers.values()):
            raise PipelineError(
                f"the form '{emit}' writes layers that compute in FP8, and none is planned",
                hint="plan with lpcompile.passes.dual_precision",
            )
        if reason := graph.raise_opset(FLOAT8_OPSET):
            raise TargetError(f"the form '{emit}' needs opset {FLOAT8_OPSET}: {reason}", hint="use another")
    return graph


def _is_without_float8(layer: LayerPlan) -> bool:
    return isinstance(layer.tensor, (EighthImage, CodeBlocks)) or layer.float8_input > 0


def context_of(planned: PlannedModel, **changed: Any) -> PassContext:
    """What passes may ask for, with caches of its own."""
    own: Mapping[str, Any] = MappingProxyType({k: dict(getattr(planned._context, k)) for k in CACHES})
    return replace(planned._context, **{"warnings": list(planned._context.warnings), **own, **changed})


def carried_on(planned: PlannedModel, done: Pass, context: PassContext) -> PlannedModel:
    """The model planned further by one pass.

    Raises:
        PipelineError: the pass needs another before it.
        LpcompileError: of the pass.
    """
    graph = planned._graph.copy()
    reports = Pipeline((done,), frozenset(graph.facts)).run(graph, context)
    quiet = replace(context, checkpoint=None, resume=False)
    return PlannedModel(
        planned.source, planned.options, (*planned.passes, done), (*planned.reports, *reports), graph, quiet
    )
