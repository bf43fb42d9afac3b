"""A compilation before its passes: the graph, the samples, the float model's answers, and what passes may ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lpcompile import registry
from lpcompile.acceptance import LOWEST_OPSET, check_axes, check_opset, check_options, check_outputs
from lpcompile.analysis.calibration import Calibration, Feeds
from lpcompile.analysis.call_sizes import shared_sizes
from lpcompile.analysis.generated_inputs import GENERATED_WARNING, generated_calibration
from lpcompile.analysis.inputs import InputSpec, random_feeds, shape_text, with_shapes
from lpcompile.analysis.mirrored_samples import mirrored
from lpcompile.analysis.samples import load_samples
from lpcompile.decisions import Decisions, read_decisions
from lpcompile.errors import CalibrationError, InputError, PipelineError, TargetError, UnsupportedOpError
from lpcompile.ir import io
from lpcompile.ir.admission import admit
from lpcompile.ir.facts import Fact
from lpcompile.ir.finite import check_finite
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.integer_operators import quantised_before
from lpcompile.ir.random_operators import random_operators
from lpcompile.ir.settled_inputs import branch_advice, settle_inputs, values_of
from lpcompile.ir.store import Shape
from lpcompile.pipeline import PLANNED, Pass, PassContext, Pipeline
from lpcompile.planned_model import ONE_BY_ONE, PlannedModel, complete_graph, context_of
from lpcompile.progress import Progress, Steps
from lpcompile.provenance import located, model_bytes, sha256_of
from lpcompile.recipe_passes import default_recipe, labels_of, recipe_passes
from lpcompile.recipes import Recipe, load_recipe
from lpcompile.runtime.execution import observer, run_once
from lpcompile.runtime.patched import open_patched
from lpcompile.runtime.session import Session
from lpcompile.runtime.sizes import Sizes
from lpcompile.target import FLOAT8_FORM, FLOAT8_OPSET, Options, Target

GENERATED_CALLS = 2
AFTER_PLANNING = ("budget", "metric", "emit", "benchmark", "dry_run", "force", "threads", "strict")
REFERENCE_LEVEL = "none"  # fused weights would be copies of them all, for a handful of runs


@dataclass(frozen=True)
class Prepared:
    """What is known before the passes run.

    Attributes:
        source, data: as the user gave them.
        sha256: of the model.
        target, recipe, decisions: what was asked for.
        passes: configured.
        graph: the float graph, which passes change.
        context: what passes may ask for.
        calibration: samples; `generated` tells whether they were made up.
        calls, expected: judging calls and the float model's outputs on them.
        deciding: the float model's outputs on the deciding calls, where an outer loop measures on them.
        allowed: sizes of the input.
        original: the float model to be timed against, or None.
    """

    source: Any
    data: Any
    sha256: str
    target: Target
    recipe: Recipe
    decisions: Decisions | None
    passes: tuple[Pass, ...]
    graph: LpGraph
    context: PassContext
    calibration: Calibration | None
    generated: bool
    calls: list[Feeds]
    expected: list[Feeds]
    deciding: list[Feeds]
    allowed: Sizes
    original: LpGraph | None

    @property
    def given(self) -> frozenset[Fact]:
        """What holds before the passes: decisions of passes that were called as functions are for a rewritten model."""
        one_by_one = self.decisions is not None and self.decisions.header.get("recipe") == ONE_BY_ONE
        return frozenset(Fact) - PLANNED if one_by_one else frozenset()


@dataclass
class Preparation:
    """Loads and checks; what the user should read goes to `warnings`."""

    target_name: str
    options: Options
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    fixed: dict[str, Shape] = field(default_factory=dict)  # shapes of inputs, by the samples

    def of(self, source: Any, data: Any, *, strict: bool = False, measures: bool = False) -> Prepared:
        """Everything before the passes.

        Args:
            source: path, bytes or proto.
            data: samples in any of their forms.
            strict: without folds that enlarge the model.
            measures: whether an outer loop will measure on the deciding calls.

        Raises:
            LpcompileError: of what the user gave.
        """
        target = registry.target(self.target_name)
        check_options(target, self.options)
        recipe = load_recipe(self.options.recipe or default_recipe(target, self.options))
        decisions = None if self.options.decisions is None else read_decisions(self.options.decisions)
        if decisions is not None and decisions.header.get("mirror_samples"):
            self.options = replace(self.options, mirror_samples=True)
        if decisions is not None and self.options.reduce_range == "auto":
            self.options = replace(
                self.options, reduce_range=decisions.header.get("reduce_range") or self.options.reduce_range
            )
        passes = recipe_passes(target, self.options, recipe, decisions, strict=strict)
        with located(source):
            graph = io.load(source)
            check_finite(graph)
            settle_inputs(graph, self.values_of(decisions))
        sha256 = sha256_of(source)
        if before := quantised_before(graph):
            self.warnings.append(
                f"the model was quantised before ({before}), which stays as it is; give the float model it was made of"
            )
        if drawn := random_operators(graph):
            self.warnings.append(drawn)
        self._check_decisions_model(decisions, sha256)
        decides = any(not p.exact for p in passes)
        with located(source):
            reference = self._reference(graph)
            admit(graph)  # after the runtime, which knows better what it cannot run
        inputs = with_shapes(reference.inputs, self.options.input_shapes)
        if data is None:
            check_axes(target, inputs)
        check_outputs(target, graph, reference.output_kinds)
        calibration = self.samples(target, graph, data, passes, inputs)
        if data is not None and calibration is not None and target.rules.batch_only:
            self._fix_axes(graph, inputs, calibration)
            check_axes(target, with_shapes(inputs, self.fixed))
        generated = calibration is not None and calibration.generated
        calls, expected = self.judging(reference, calibration)
        on_deciding = [reference.run(c) for c in calibration.deciding] if measures and calibration else []
        allowed = Sizes.of_graph(graph, model_bytes(source))
        original = graph.copy() if self.options.benchmark else None
        del reference  # what it keeps for its next run would stand beside the passes' own
        self.convert(graph, decides=decides)
        if decides:
            check_opset(target, graph)
        if calibration is not None and (advice := branch_advice(graph, calibration.calls[0])):
            self.warnings.append(advice)
        self._check_names(graph)
        context = self.context(target, decisions, calibration, passes)
        return Prepared(
            source,
            data,
            sha256,
            target,
            recipe,
            decisions,
            passes,
            graph,
            context,
            calibration,
            generated,
            calls,
            expected,
            on_deciding,
            allowed,
            original,
        )

    def _fix_axes(self, graph: LpGraph, inputs: Sequence[InputSpec], calibration: Calibration) -> None:
        """Of axes that are open, all but the batch take the size that every sample has.

        A branch that is not taken may not fit it: a graph with bodies is left as it is.
        """
        if any(n.subgraphs for n in graph.nodes()):
            return
        shared = shared_sizes(calibration.calls, {spec.name: spec.shape for spec in inputs})
        for spec in inputs:
            first = (spec.shape or (None,))[0]
            shape = shared.get(spec.name, ())
            if shape and not isinstance(first, int):
                shape = (first, *shape[1:])
            if shape and shape != spec.shape:
                self.fixed[spec.name] = shape
        if self.fixed:
            shown = ", ".join(f"{name}={shape_text(shape)}" for name, shape in self.fixed.items())
            self.warnings.append(f"open sizes are those of the samples: {shown}; --input-shape gives others")

    def of_planned(self, planned: PlannedModel, data: Any) -> Prepared:
        """Everything that follows passes which were called one by one.

        Raises:
            PipelineError: an option or the target would change what was decided, or samples are given once more.
            InputError: the float model does not run.
        """
        self._check_planned(planned, data)
        context = context_of(planned, progress=self.progress)
        self.warnings += planned.warnings
        calibration = context.calibration
        graph = complete_graph(planned, self.options.emit)
        reference = self._reference(LpGraph.from_proto(planned.source))
        calls, expected = self.judging(reference, calibration)
        return Prepared(
            source=planned.source,
            data=None if calibration is None or calibration.generated else calibration,
            sha256=sha256_of(planned.source),
            target=planned.target,
            recipe=Recipe(ONE_BY_ONE, "", planned.pipeline, 0.0, ""),
            decisions=None,
            passes=planned.passes,
            graph=graph,
            context=context,
            calibration=calibration,
            generated=calibration is not None and calibration.generated,
            calls=calls,
            expected=expected,
            deciding=[],
            allowed=Sizes.of_graph(graph, model_bytes(planned.source)),
            original=LpGraph.from_proto(planned.source) if self.options.benchmark else None,
        )

    def _check_planned(self, planned: PlannedModel, data: Any) -> None:
        if data is not None:
            raise PipelineError(
                "a plan comes with the samples it was made from",
                hint="leave calibration out, or give it to the first plan pass",
            )
        if self.target_name != planned.target.name:
            raise PipelineError(
                f"the plan was made for target '{planned.target.name}', not '{self.target_name}'",
                hint=f"use target='{planned.target.name}'",
            )
        for name in (f.name for f in fields(Options)):
            given = getattr(self.options, name)
            if name not in AFTER_PLANNING and given not in (
                getattr(Options(), name),
                getattr(planned.options, name),
            ):
                raise PipelineError(
                    f"option '{name}' decides what the plan has decided already",
                    hint="give it to the function of a pass, or compile the float model",
                )
        own = {name: getattr(self.options, name) for name in AFTER_PLANNING}
        self.options = replace(planned.options, passes=planned.pipeline, **own)
        check_options(planned.target, self.options)

    def context(
        self,
        target: Target,
        decisions: Decisions | None,
        calibration: Calibration | None,
        passes: tuple[Pass, ...],
    ) -> PassContext:
        """What the passes may ask for."""
        threads, samples = self.options.threads, calibration.samples if calibration else 1
        pipeline = Pipeline(passes, frozenset(Fact))  # their order is checked where they run
        return PassContext(
            run=run_once,
            observe=lambda g, tensors: observer(g, tensors, threads=threads, samples=samples),
            decisions=None if decisions is None else decisions.plan,
            target=target,
            calibration=calibration,
            seed=self.options.seed,
            progress=self.progress,
            entering=self.progress.entering if isinstance(self.progress, Steps) else str,
            keep_float=frozenset((*self.options.keep_float, *self.options.host)),
            warnings=self.warnings,
            weights=pipeline.planned_weights,
            activations=pipeline.planned_activations,
            checkpoint=self.options.checkpoint,
            resume=self.options.resume,
            layer_formats=tuple(self.options.layer_formats),
            open_patched=lambda g, names, outputs: open_patched(
                g, names, outputs, threads=threads, samples=samples
            ),
            machine=self.options.machine,
            emit=self.options.emit,
        )

    def remade(self, prepared: Prepared) -> LpGraph:
        """The float graph once more, for layers that fall back after their weights were let go."""
        graph = io.load(prepared.source)
        settle_inputs(graph, self.values_of(prepared.decisions))
        self.convert(graph, decides=True)
        Pipeline(tuple(p for p in prepared.passes if p.exact or p.rewrites)).run(graph, prepared.context)
        return graph

    def values_of(self, decisions: Decisions | None) -> Mapping[str, float]:
        """Inputs that are settled: as asked, or as decided.

        Raises:
            InputError: the decisions have them in another form.
        """
        if self.options.input_values or decisions is None:
            return self.options.input_values
        return values_of(decisions.header.get("input_values", ""))

    def convert(self, graph: LpGraph, *, decides: bool) -> None:
        """Opset and shapes as the passes want them."""
        if decides and graph.opset < LOWEST_OPSET and (reason := graph.raise_opset(LOWEST_OPSET)):
            self.warnings.append(f"opset {graph.opset} stays, so nothing is quantised: {reason}")
        wanted = FLOAT8_OPSET if self.options.emit == FLOAT8_FORM and decides else 0
        if wanted and (reason := graph.raise_opset(wanted)):
            raise TargetError(
                f"--emit {FLOAT8_FORM} needs opset {wanted}: {reason}",
                hint="export the model again with a newer opset, or use another form",
            )
        if self.options.opset is not None and (reason := graph.raise_opset(self.options.opset)):
            self.warnings.append(f"the opset stays {graph.opset}: {reason}")
        graph.infer_shapes({**self.fixed, **self.options.input_shapes})
        asked = self.options.reduce_range
        reduced = registry.target(self.target_name).adds_pairs() if asked == "auto" else asked == "on"
        graph.plan = replace(graph.plan, reduce_range=decides and reduced)

    def _reference(self, graph: LpGraph) -> Session:
        """The float model in the runtime, as it came; at a newer opset where the old one has no kernel."""
        try:
            return Session(graph, threads=self.options.threads, level=REFERENCE_LEVEL)
        except UnsupportedOpError:
            if graph.opset >= LOWEST_OPSET or graph.raise_opset(LOWEST_OPSET):
                raise
            return Session(graph, threads=self.options.threads, level=REFERENCE_LEVEL)

    def samples(
        self,
        target: Target,
        graph: LpGraph,
        data: Any,
        passes: Sequence[Pass],
        inputs: Sequence[InputSpec],
    ) -> Calibration | None:
        """The user's, else generated ones where a target cannot do without, else none."""
        if data is not None:
            found = load_samples(data, inputs, labels_of(tuple(passes)))
            if same := found.constant_inputs:
                self.warnings.append(
                    f"input '{same[0]}' is the same in every sample: ranges and codes fit that one alone"
                )
            return mirrored(found, inputs) if self.options.mirror_samples else found
        if self.options.mirror_samples:
            raise CalibrationError(
                "no samples to mirror", hint="give --calibration-data, or no --mirror-samples"
            )
        if all(p.exact for p in passes):
            return None
        if target.rules.needs_ranges:
            self.warnings.append(GENERATED_WARNING)
            return generated_calibration(graph, inputs, self.options.seed, self.options.input_shapes)
        self.warnings.append(
            "no calibration data: weights only; --calibration-data would give integer activations and speed"
        )
        return None

    def judging(self, reference: Session, calibration: Calibration | None) -> tuple[list[Feeds], list[Feeds]]:
        """Calls to judge the result on, and what the float model gives on them."""
        if calibration is not None:
            calls, expected = calibration.judging, list[Feeds]()
            for i, call in enumerate(calls):
                expected.append(reference.run(call))
                self.progress("running the float model", i + 1, len(calls))
            return calls, expected
        try:
            seeds = range(self.options.seed, self.options.seed + GENERATED_CALLS)
            calls = [random_feeds(reference.inputs, seed, self.options.input_shapes) for seed in seeds]
            return calls, [reference.run(c) for c in calls]
        except InputError as error:
            self.warnings.append(
                f"not judged by running: the float model fails on generated inputs ({error.message})"
            )
            return [], []

    def _check_names(self, graph: LpGraph) -> None:
        names = {n.name for n in graph.nodes()}
        for name in (*self.options.keep_float, *self.options.host):
            if name not in names:
                raise InputError(
                    f"there is no node '{name}'",
                    hint=registry.near_match(name, sorted(names), registry.NODES),
                )

    def _check_decisions_model(self, decisions: Decisions | None, sha256: str) -> None:
        if decisions is not None and decisions.header.get("model_sha256", "") not in ("", sha256):
            self.warnings.append("the decisions were made for another model")
