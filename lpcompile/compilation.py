"""One compilation from end to end: load, rewrite, decide, emit, judge, fall back, report."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from lpcompile.acceptance import check_rounded
from lpcompile.accounts.entries import Account
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.generated_inputs import (
    GENERATED_ASSUMPTION,
)
from lpcompile.assignment.budget import Budget, keeps
from lpcompile.counted import counted
from lpcompile.decisions import Decisions, write_decisions
from lpcompile.emission import Emission, Gate, TooLargeError, emit
from lpcompile.energy_search import ENERGY, keep_energy
from lpcompile.errors import BudgetError, LpcompileError, ModelError, PassError
from lpcompile.graph_costs import float_costs, planned_costs, shapes_of
from lpcompile.ir.integer_operators import quantised_before
from lpcompile.ir.other_weights import other_weights
from lpcompile.ir.settled_inputs import values_text
from lpcompile.ledger import AS_SEARCHED, Ledger
from lpcompile.memory import keep_large_blocks_apart
from lpcompile.pipeline import Observer, Pipeline, pipeline_text
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.planned_model import PlannedModel
from lpcompile.prepared import Preparation, Prepared
from lpcompile.progress import Steps
from lpcompile.provenance import Source, data_sha256
from lpcompile.recipe_passes import effort_document, split_at_assignment
from lpcompile.records import PassReport
from lpcompile.released import release_rounded
from lpcompile.report import document
from lpcompile.report.command import command_line
from lpcompile.report.cost import ASSUMPTIONS, cost_document
from lpcompile.runtime.execution import observer
from lpcompile.runtime.host_sessions import HostSessions
from lpcompile.runtime.metric import Metric, load_metric
from lpcompile.runtime.session import Session
from lpcompile.search import Searched, search
from lpcompile.target import FLOAT8_FORM, PORTABLE_FORMS, Options, Products, Target, Trial
from lpcompile.watch import Watch
from lpcompile.yardstick import Yardstick

NOTHING = "nothing is quantised: no Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU or RNN has constant weights"
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
    progress: Steps
    observe: Observer
    warnings: list[str] = field(default_factory=list)
    temporaries: dict[str, onnx.ModelProto] = field(default_factory=dict)
    _metric: Metric | None = None

    def run(self, source: Source | PlannedModel, data: Any) -> Result:
        """Compile one model; once more without folds that enlarge, where the first result came out too large."""
        keep_large_blocks_apart()
        if self.options.metric is not None:
            self._metric = load_metric(self.options.metric)
            self.options = replace(self.options, metric=self._metric.reference)  # a function has a name
        try:
            return self._attempts(source, data)
        except LpcompileError:
            self.progress.check()  # what a listener raised may have been taken for an error of a step
            raise

    def _attempts(self, source: Source | PlannedModel, data: Any) -> Result:
        try:
            return self._run(source, data)
        except TooLargeError as error:
            self.warnings.clear()
            self.temporaries.clear()
            result = self._run(source, data, strict=True)
            result.report["warnings"].append(
                f"compiled again without folds and copies that enlarge: {error.message}"
            )
            return result

    def _run(self, source: Any, data: Any, *, strict: bool = False) -> Result:
        budget = Budget.of(self.options.budget)
        preparation = Preparation(self.target_name, self.options, self.progress, self.warnings)
        planned = source if isinstance(source, PlannedModel) else None
        if planned is None:
            prepared = preparation.of(source, data, strict=strict, measures=bool(budget.measured))
        else:
            prepared = preparation.of_planned(planned, data)
            self.options = preparation.options
        graph, target, context = prepared.graph, prepared.target, prepared.context
        ledger = Ledger.of(
            None if prepared.generated else prepared.calibration,
            lambda g, tensors: observer(g, tensors, threads=self.options.threads),
            self.progress,
        )
        watch = Watch(self.options, prepared.calls, prepared.expected, self.observe, self.temporaries, ledger)
        cost_before = float_costs(graph, shapes_of(prepared.calibration))
        head, tail = (
            split_at_assignment(prepared.passes, prepared.given) if planned is None else (prepared.passes, ())
        )
        if planned is None:
            reports = Pipeline(head, prepared.given).run(graph, context, watch.after)
        else:
            reports, ledger.obstacle = list(planned.reports), "the passes were called one by one"
        yardstick = Yardstick.of(self._metric, graph, self.options)
        found: Searched | None = None
        if tail and budget.measured and prepared.decisions is None:
            found = search(prepared, tail, yardstick, budget.measured)
            tail = found.passes
        products: Products | None = None
        if tail and ENERGY in budget.additive and prepared.decisions is None:
            earlier = {} if found is None else found.document
            found, products = keep_energy(
                prepared, tail, self.options, lambda e: self._build(target, e, prepared.calls)
            )
            found.document.update({**earlier, **found.document})
            tail = found.passes
        if found is not None and not watch.compares:
            for i, (done, said) in enumerate(zip(tail, found.reports, strict=True), len(head)):
                watch.observe(i, done, found.graph, said)
            ledger.add(AS_SEARCHED, found.graph, sum(r.seconds for r in found.reports))
            reports += found.reports
        else:
            reports += Pipeline(tail, frozenset(graph.facts)).run(
                graph, context, watch.after, first=len(head)
            )
        self.warnings += graph.notes
        if (others := other_weights(graph)) is not None:
            self.warnings.append(others)
        emission: Emission | None = None
        if found is not None:
            prepared = replace(prepared, graph=found.graph)
            graph, emission = found.graph, found.emission
        elif prepared.original is None:  # it reads the same weights when it is timed
            release_rounded(graph, lambda: preparation.remade(prepared))
        packed = [n for n, layer in graph.plan.layers.items() if layer.kernel is Kernel.NBITS]
        if self.options.emit == FLOAT8_FORM:
            self.warnings.append(
                f"--emit {FLOAT8_FORM} is for runtimes with FP8 products: ONNX Runtime's CPU kernels convert float8 "
                "numbers to floats at every call, slower than the other forms"
            )
        if packed and self.options.emit == "qdq":
            self.warnings.append(
                f"{counted(len(packed), 'layer', 'is', 'are')} floats in this form: MatMulNBits is not portable"
            )
        cells = [n for n, cell in graph.plan.recurrent.items() if cell.kernel is Kernel.DYNAMIC]
        if cells and self.options.emit in PORTABLE_FORMS:
            self.warnings.append(
                f"{counted(len(cells), 'LSTM layer', 'is', 'are')} floats in this form, which has no operator for them"
            )
        if emission is None:
            check_rounded(graph.plan, "put quantize-weights behind the last pass that plans activations")
            gate = Gate(
                prepared.calls,
                prepared.expected,
                prepared.allowed,
                prepared.original,
                prepared.recipe,
                self.progress,
            )
            try:
                emission = emit(graph, target, self.options, gate)
            except PassError as error:
                raise self._blamed(error, prepared) from error
        self.warnings += emission.warnings
        self._warn_of_codes(prepared.decisions, graph.plan)
        reports += emission.reports
        if products is None:
            products = self._build(target, emission, prepared.calls)
        self.warnings += products.warnings
        report = self._report(_Facts(prepared, emission, reports, products, cost_before))
        stored = report["layers"] or report["tables"] or quantised_before(graph)
        if not stored and others is None and any(not p.exact for p in prepared.passes):
            report["warnings"].append(NOTHING)
        if yardstick.metric is not None:
            report["metric"] = yardstick.document(emission.emitted.model)
        report["effort"] = effort_document((*head, *tail), self.options)
        report |= ledger.document()
        if found is not None:
            report["search"] = found.document
        self._check_budget(report)
        self.progress.check()
        header = {
            "model_sha256": prepared.sha256,
            "data_sha256": data_sha256(prepared.calibration),
            "pipeline": pipeline_text((*head, *tail)),
            "recipe": prepared.recipe.name,
            "target": target.name,
            "seed": str(self.options.seed),
            "emit": self.options.emit,
            "input_values": values_text(preparation.values_of(prepared.decisions)),
            "mirror_samples": "true" if preparation.options.mirror_samples else "",
            "reduce_range": "on" if graph.plan.reduce_range else "",
        }
        decisions = prepared.decisions
        if decisions is not None and decisions.header.get("data_sha256", "") not in (
            "",
            header["data_sha256"],
        ):
            report["warnings"].append("the decisions were made with other calibration data")
        text = write_decisions(Decisions(header, document.versions(), graph.plan))
        return Result(emission.emitted.model, report, text, self.temporaries, products.files)

    def _warn_of_codes(self, decisions: Decisions | None, plan: QuantPlan) -> None:
        if decisions is None:
            return
        for name, layer in decisions.plan.layers.items():
            found = plan.layers.get(name)
            if found is not None and layer.codes_sha256 and found.codes_sha256 != layer.codes_sha256:
                self.warnings.append(f"layer '{name}': its codes are not those of the decisions")
        for name, requant in decisions.plan.requants.items():
            held = plan.requants.get(name)
            if held is None or held.multiplier != requant.multiplier:
                self.warnings.append(f"'{name}': its multiplier is not held as the decisions say")
        for name, norm in decisions.plan.norms.items():
            now = plan.norms.get(name)
            if now is None or now.constants_sha256 != norm.constants_sha256:
                self.warnings.append(f"norm '{name}': its constants are not those of the decisions")
        for name, recurrent in decisions.plan.recurrent.items():
            cell = plan.recurrent.get(name)
            if cell is None or (recurrent.codes_sha256 or cell.codes_sha256) != cell.codes_sha256:
                self.warnings.append(f"recurrent layer '{name}': it is not stored as the decisions say")
        for name, table in decisions.plan.tables.items():
            stored = plan.tables.get(name)
            same = stored is not None and stored.format == table.format
            if stored is None or not same or table.codes_sha256 not in ("", stored.codes_sha256):
                self.warnings.append(f"table of '{name}': it is not stored as the decisions say")

    # after the passes

    def _blamed(self, error: PassError, prepared: Prepared) -> LpcompileError:
        """The same, unless the model as it came does not run at the runtime's default level either."""
        try:
            for call in prepared.calls[:1]:
                Session(prepared.source, threads=self.options.threads).run(call)
        except ModelError as own:
            hint = "see what 'lpcompile run' says of it; it may be quantised already, with impossible scales"
            return ModelError(f"the model as it came does not run: {own.message}", hint=hint, where=own.where)
        return error

    def _build(self, target: Target, emission: Emission, calls: Sequence[Feeds]) -> Products:
        """What the target makes beside the model."""
        emitted = emission.emitted
        if emitted.reference is None or emitted.numbers is None:
            return Products()
        trial = None
        if calls and emission.verdict.outputs:
            trial = Trial(calls[0], emission.verdict.outputs, HostSessions(self.options.threads))
        return target.build(emitted.reference, emitted.numbers, self.options, trial, self.progress)

    def _report(self, facts: "_Facts") -> dict[str, Any]:
        prepared, verdict = facts.prepared, facts.emission.verdict
        graph = prepared.graph
        timing = verdict.timing
        emitted = facts.emission.emitted
        dyadic = emitted.numbers is not None
        kept = (r.skips for r in facts.reports if r.name == "quantize-recurrent")
        skipped = {skip.node: skip.reason for skips in kept for skip in skips}
        layers = document.layer_records(graph, emitted.weight_bytes, dyadic=dyadic, skipped=skipped)
        cost_after = planned_costs(graph, prepared.target, shapes_of(prepared.calibration), dyadic=dyadic)
        totals = document.totals(layers, graph, cost_after)
        before, after = prepared.allowed, facts.emission.sizes
        totals["file_bytes"] = after.file_bytes
        held = prepared.calibration is not None and prepared.calibration.has_held_back
        if prepared.calibration is not None and not held and not prepared.generated:
            self.warnings.append(
                "fewer than 4 calls of calibration data: quality is measured on samples that also decided"
            )
        quality = asdict(verdict.comparison.quality(held_back=held))
        quality["source"] = (
            "generated inputs" if prepared.calibration is None else prepared.calibration.source
        )
        path = os.fspath(prepared.source) if isinstance(prepared.source, (str, os.PathLike)) else None
        shown = {k: v for k, v in asdict(self.options).items() if v not in (None, {}, (), False)}
        report = {
            "schema": 1,
            "tool": {"name": "lpcompile", "version": document.versions()["lpcompile"]},
            "created_with": {
                "command": command_line(path, self.target_name, self.options, prepared.data),
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in shown.items()},
                "seed": self.options.seed,
                "versions": document.versions(),
            },
            "model": document.model_document(graph, path, prepared.sha256),
            "target": self.target_name,
            "recipe": prepared.recipe.name,
            "warnings": list(dict.fromkeys(self.warnings)),
            "assumptions": [
                *([GENERATED_ASSUMPTION] if prepared.generated else []),
                *document.mac_assumptions(totals),
                *map(dict, ASSUMPTIONS),
                *document.float8_assumptions(graph.plan),
                *prepared.target.assumptions(graph),
            ],
            "passes": document.pass_documents(facts.reports),
            "layers": [asdict(r) for r in layers],
            "tables": [asdict(r) for r in document.table_records(graph)],
            "totals": totals,
            "cost": cost_document({"before": facts.cost_before, "after": cost_after}),
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
        totals, quality = report["totals"], report["quality"]
        found = {
            "avg-bits": totals["bits_per_weight"],
            "bytes": totals["weight_bytes"],
            "ace": totals["ace"],
            "acev2": totals["acev2_layers"],
            "energy-pj": totals.get("energy_pj"),
            "posit-fraction": totals["posit_fraction"],
            "sqnr-db": quality["sqnr_db_output"],
            "agreement": quality["top1_agreement"],
            "metric-drop": report.get("metric", {}).get("drop"),
        }
        for key, bound in self.options.budget.items():
            value = found[key]
            if value is None or not keeps(key, value, bound):
                shown = "not measurable" if value is None else f"{value:.4g}"
                raise BudgetError(
                    f"{key} is {shown}, the bound is {bound:g}",
                    hint="the nearest point of this recipe is the one named; try another recipe or --weight-format",
                )


@dataclass(frozen=True)
class _Facts:
    prepared: Prepared
    emission: Emission
    reports: list[PassReport]
    products: Products
    cost_before: Account
