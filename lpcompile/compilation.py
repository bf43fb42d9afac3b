"""One compilation from end to end: load, rewrite, decide, emit, judge, fall back, report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from lpcompile import registry
from lpcompile.acceptance import LOWEST_OPSET, check_axes, check_opset, check_options
from lpcompile.analysis.calibration import Calibration, Feeds
from lpcompile.analysis.generated_inputs import (
    GENERATED_ASSUMPTION,
    GENERATED_WARNING,
    generated_calibration,
)
from lpcompile.analysis.inputs import InputSpec, random_feeds
from lpcompile.analysis.samples import load_samples
from lpcompile.decisions import Decisions, read_decisions, write_decisions
from lpcompile.emission import Emission, Gate, TooLargeError, emit
from lpcompile.errors import BudgetError, InputError, UnsupportedOpError
from lpcompile.ir import io
from lpcompile.ir.finite import check_finite
from lpcompile.ir.graph import LpGraph
from lpcompile.memory import keep_large_blocks_apart
from lpcompile.pipeline import Observer, Pass, PassContext, Pipeline, Progress
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.provenance import data_sha256, located, model_bytes, sha256_of
from lpcompile.recipe_passes import recipe_passes
from lpcompile.recipes import Recipe, load_recipe
from lpcompile.records import PassReport
from lpcompile.released import release_rounded
from lpcompile.report import document
from lpcompile.report.command import command_line
from lpcompile.runtime.execution import observer, run_once
from lpcompile.runtime.host_sessions import HostSessions
from lpcompile.runtime.session import Session
from lpcompile.runtime.sizes import Sizes
from lpcompile.target import Options, Products, Target, Trial
from lpcompile.watch import Watch

GENERATED_CALLS = 2
REFERENCE_LEVEL = "none"  # fused weights would be copies of them all, for a handful of runs


@dataclass
class Result:
    """What a compilation made."""

    model: onnx.ModelProto
    report: dict[str, Any]
    decisions: str
    temporaries: dict[str, onnx.ModelProto]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass
class Compilation:
    """The steps and what they share."""

    target_name: str
    options: Options
    progress: Progress
    observe: Observer
    warnings: list[str] = field(default_factory=list)
    temporaries: dict[str, onnx.ModelProto] = field(default_factory=dict)

    def run(self, source: str | os.PathLike[str] | bytes | onnx.ModelProto, data: Any) -> Result:
        """Compile one model; once more without folds that enlarge, where the first result came out too large."""
        keep_large_blocks_apart()
        try:
            return self._run(source, data)
        except TooLargeError as error:
            self.warnings.clear()
            self.temporaries.clear()
            result = self._run(source, data, strict=True)
            result.report["warnings"].append(f"compiled again without folds that enlarge: {error.message}")
            return result

    def _run(self, source: Any, data: Any, *, strict: bool = False) -> Result:
        target = registry.target(self.target_name)
        check_options(target, self.options)
        recipe = load_recipe(self.options.recipe or target.default_recipe())
        decisions = None if self.options.decisions is None else read_decisions(self.options.decisions)
        passes = recipe_passes(target, self.options, recipe, decisions, strict=strict)
        with located(source):
            graph = io.load(source)
            check_finite(graph)
        sha256 = sha256_of(source)
        self._check_decisions_model(decisions, sha256)
        decides = any(not p.exact for p in passes)
        with located(source):
            reference = self._reference(graph)
        check_axes(target, reference.inputs, self.options.input_shapes)
        calibration = None if data is None else self._calibration(data, reference.inputs)
        generated = calibration is None and decides and target.rules.needs_ranges
        if generated:
            calibration = generated_calibration(
                graph, reference.inputs, self.options.seed, self.options.input_shapes
            )
            self.warnings.append(GENERATED_WARNING)
        calls, expected = self._judging(reference, calibration)
        allowed = Sizes.of_graph(graph, model_bytes(source))
        original = graph.copy() if self.options.benchmark else None
        del reference  # what it keeps for its next run would stand beside the passes' own
        self._prepare(graph, decides=decides)
        if decides:
            check_opset(target, graph)
        if calibration is None and decides:
            self.warnings.append(
                "no calibration data: weights only; --calibration-data would give integer activations and speed"
            )
        self._check_names(graph)
        context = PassContext(
            run=run_once,
            observe=lambda g, tensors: observer(
                g, tensors, threads=self.options.threads, calls=len(calibration.calls) if calibration else 1
            ),
            decisions=None if decisions is None else decisions.plan,
            target=target,
            calibration=calibration,
            seed=self.options.seed,
            progress=self.progress,
            keep_float=frozenset((*self.options.keep_float, *self.options.host)),
            warnings=self.warnings,
            weights=Pipeline(passes).planned_weights,
        )
        watch = Watch(self.options, calls, expected, self.observe, self.temporaries)
        reports = Pipeline(passes).run(graph, context, watch.after)
        self.warnings += graph.notes
        if original is None:  # it reads the same weights when it is timed
            release_rounded(graph, lambda: self._remade(source, passes, context))
        packed = [n for n, layer in graph.plan.layers.items() if layer.kernel is Kernel.NBITS]
        if packed and self.options.emit == "qdq":
            self.warnings.append(f"{len(packed)} layers are floats in this form: MatMulNBits is not portable")
        emission = emit(graph, target, self.options, Gate(calls, expected, allowed, original, recipe))
        self.warnings += emission.warnings
        self._warn_of_codes(decisions, graph.plan)
        reports += emission.reports
        products = self._build(target, emission, calls)
        report = self._report(
            _Facts(
                graph,
                emission,
                allowed,
                reports,
                recipe,
                source,
                sha256,
                data,
                calibration,
                generated,
                products,
            )
        )
        self._check_budget(report)
        header = {
            "model_sha256": sha256,
            "data_sha256": data_sha256(calibration),
            "pipeline": Pipeline(passes).text,
            "recipe": recipe.name,
            "target": target.name,
            "seed": str(self.options.seed),
            "emit": self.options.emit,
        }
        if decisions is not None and decisions.header.get("data_sha256", "") not in (
            "",
            header["data_sha256"],
        ):
            report["warnings"].append("the decisions were made with other calibration data")
        text = write_decisions(Decisions(header, document.versions(), graph.plan))
        return Result(emission.emitted.model, report, text, self.temporaries, products.files)

    # before the passes

    def _prepare(self, graph: LpGraph, *, decides: bool) -> None:
        """Opset and shapes as the passes want them."""
        if decides and graph.opset < LOWEST_OPSET and (reason := graph.raise_opset(LOWEST_OPSET)):
            self.warnings.append(f"opset {graph.opset} stays, so nothing is quantised: {reason}")
        if self.options.opset is not None and (reason := graph.raise_opset(self.options.opset)):
            self.warnings.append(f"the opset stays {graph.opset}: {reason}")
        graph.infer_shapes(dict(self.options.input_shapes))

    def _remade(self, source: Any, passes: tuple[Pass, ...], context: PassContext) -> LpGraph:
        """The float graph once more, for layers that fall back after their weights were let go."""
        graph = io.load(source)
        self._prepare(graph, decides=True)
        Pipeline(tuple(p for p in passes if p.exact)).run(graph, context)
        return graph

    def _reference(self, graph: LpGraph) -> Session:
        """The float model in the runtime, as it came; at a newer opset where the old one has no kernel."""
        try:
            return Session(graph, threads=self.options.threads, level=REFERENCE_LEVEL)
        except UnsupportedOpError:
            if graph.opset >= LOWEST_OPSET or graph.raise_opset(LOWEST_OPSET):
                raise
            return Session(graph, threads=self.options.threads, level=REFERENCE_LEVEL)

    def _calibration(self, data: Any, inputs: Sequence[InputSpec]) -> Calibration:
        return data if isinstance(data, Calibration) else load_samples(data, inputs)

    def _judging(
        self, reference: Session, calibration: Calibration | None
    ) -> tuple[list[Feeds], list[Feeds]]:
        """Calls to judge the result on, and what the float model gives on them."""
        if calibration is not None:
            calls = calibration.judging
            return calls, [reference.run(c) for c in calls]
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
                    f"there is no node '{name}'", hint=registry.near_match(name, sorted(names)[:2000])
                )

    def _check_decisions_model(self, decisions: Decisions | None, sha256: str) -> None:
        if decisions is not None and decisions.header.get("model_sha256", "") not in ("", sha256):
            self.warnings.append("the decisions were made for another model")

    def _warn_of_codes(self, decisions: Decisions | None, plan: QuantPlan) -> None:
        if decisions is None:
            return
        for name, layer in decisions.plan.layers.items():
            found = plan.layers.get(name)
            if found is not None and layer.codes_sha256 and found.codes_sha256 != layer.codes_sha256:
                self.warnings.append(f"layer '{name}': its codes are not those of the decisions")

    # after the passes

    def _build(self, target: Target, emission: Emission, calls: Sequence[Feeds]) -> Products:
        """What the target makes beside the model."""
        emitted = emission.emitted
        if emitted.reference is None or emitted.numbers is None:
            return Products()
        trial = None
        if calls and emission.verdict.outputs:
            trial = Trial(calls[0], emission.verdict.outputs, HostSessions(self.options.threads))
        products = target.build(emitted.reference, emitted.numbers, self.options, trial)
        self.warnings += products.warnings
        return products

    def _report(self, facts: "_Facts") -> dict[str, Any]:
        graph, verdict = facts.graph, facts.emission.verdict
        timing = verdict.timing
        emitted = facts.emission.emitted
        dyadic = emitted.numbers is not None
        layers = document.layer_records(graph, emitted.weight_bytes, dyadic=dyadic)
        totals = document.totals(layers, graph, dyadic=dyadic)
        before, after = facts.allowed, facts.emission.sizes
        totals["file_bytes"] = after.file_bytes
        held = facts.calibration is not None and facts.calibration.has_held_back
        if facts.calibration is not None and not held and not facts.generated:
            self.warnings.append(
                "fewer than 4 calls of calibration data: quality is measured on samples that also decided"
            )
        quality = asdict(verdict.comparison.quality(held_back=held))
        quality["source"] = "generated inputs" if facts.calibration is None else facts.calibration.source
        path = os.fspath(facts.source) if isinstance(facts.source, (str, os.PathLike)) else None
        shown = {k: v for k, v in asdict(self.options).items() if v not in (None, {}, (), False)}
        report = {
            "schema": 1,
            "tool": {"name": "lpcompile", "version": document.versions()["lpcompile"]},
            "created_with": {
                "command": command_line(path, self.target_name, self.options, facts.data),
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()},
                "seed": self.options.seed,
                "versions": document.versions(),
            },
            "model": document.model_document(graph, path, facts.sha256),
            "target": self.target_name,
            "recipe": facts.recipe.name,
            "warnings": list(dict.fromkeys(self.warnings)),
            "assumptions": [
                *([GENERATED_ASSUMPTION] if facts.generated else []),
                *document.mac_assumptions(totals),
            ],
            "passes": document.pass_documents(facts.reports),
            "layers": [asdict(r) for r in layers],
            "totals": totals,
            "quality": quality,
            "verification": {
                "loads": True,
                "runs": verdict.ran,
                "integer_layers_checked": len(verdict.checks),
                "elements_compared": sum(c.compared for c in verdict.checks),
                "elements_different": sum(c.different for c in verdict.checks),
                "latency_ms": None
                if timing is None
                else {"float": timing.float_ms, "compiled": timing.compiled_ms},
                "latency_ratio": None
                if timing is None
                else [timing.quartiles[0], timing.ratio, timing.quartiles[1]],
                "bytes": {"float": before.file_bytes, "compiled": after.file_bytes},
                "constant_bytes": {"float": before.constant_bytes, "compiled": after.constant_bytes},
            },
        }
        return document.merged(report, facts.products.report)

    def _check_budget(self, report: Mapping[str, Any]) -> None:
        found = {
            "avg-bits": (report["totals"]["bits_per_weight"], False),
            "bytes": (report["totals"]["weight_bytes"], False),
            "sqnr-db": (report["quality"]["sqnr_db_output"], True),
            "agreement": (report["quality"]["top1_agreement"], True),
        }
        for key, bound in self.options.budget.items():
            value, at_least = found[key]
            if value is None or (value < bound if at_least else value > bound):
                shown = "not measurable" if value is None else f"{value:.4g}"
                raise BudgetError(
                    f"{key} is {shown}, the bound is {bound:g}",
                    hint="the nearest point of this recipe is the one named; try another recipe or --weight-format",
                )


@dataclass(frozen=True)
class _Facts:
    graph: LpGraph
    emission: Emission
    allowed: Sizes
    reports: list[PassReport]
    recipe: Recipe
    source: Any
    sha256: str
    data: Any
    calibration: Calibration | None
    generated: bool
    products: Products
