"""`analyze`: which layers of a float model mind being quantised, as one document. [architecture 5, 6].

The model goes through the float passes first, so that layers have the names of a compilation's report.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from lpcompile import registry
from lpcompile.analysis.batches import ObserveGraph, batch_inputs
from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.gradients import LOSSES, Samples
from lpcompile.analysis.inputs import InputSpec, with_shapes
from lpcompile.analysis.layer_kernels import MATRICES
from lpcompile.analysis.macs import macs
from lpcompile.analysis.rounded_weights import WeightRounding
from lpcompile.analysis.samples import load_samples
from lpcompile.analysis.sensitivity import Columns, Sensitivities, Study, analyse, method_named
from lpcompile.errors import CalibrationError, InputError, UnsupportedOpError
from lpcompile.formats.base import resolve
from lpcompile.formats.group import has_group_table
from lpcompile.ir import io
from lpcompile.ir.admission import admit
from lpcompile.ir.finite import check_finite
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.settled_inputs import branch_advice, settle_inputs
from lpcompile.pipeline import PassContext, Pipeline
from lpcompile.plan import ActivationPlan
from lpcompile.prepared import Preparation
from lpcompile.progress import Progress, Steps, Tell
from lpcompile.provenance import located, sha256_of
from lpcompile.quant.fit import GRANULARITIES
from lpcompile.report.document import versions
from lpcompile.runtime.execution import observer, run_once
from lpcompile.runtime.layer_metric import metric_drops
from lpcompile.runtime.metric import Metric, load_metric
from lpcompile.runtime.patched import PatchedModel
from lpcompile.target import Options

METRIC_DROP = "metric drop"
FLOAT_PASSES = "widen-float16,fold-constants,canonicalize,fold-batchnorm,merge-branches"
GRADIENTS = 256  # for each layer: more draws where there are few samples
ACTIVATION_FORMATS = ("uint8", "uint4")


@dataclass(frozen=True)
class Question:
    """What is asked about a model.

    Attributes:
        methods: names or paper labels, see `analysis.sensitivity`; layers are sorted by the first.
        format: number format of the weights.
        granularity: of their scales, "tensor", "channel" or "group".
        rule: of their scales, a rule that needs no data.
        loss: one of LOSSES.
        activations: "uint8" or "uint4" asks about activations as well; "" does not.
        samples: most samples to use; None: all.
        labels: name of an array of labels in the data.
        draws: of the loss's random numbers for each sample; None: 2 to 4, so that there are GRADIENTS of them.
        seed: of these.
        threads: of the runtime; 0: its own choice.
        input_shapes: concrete shapes of inputs.
        input_values: of inputs that take one value for good, so that branches fold; samples need not name them.
        metric: the user's measure of a model, a function of an `onnxruntime.InferenceSession` or its name
            "package.module:function"; every layer is measured by it, with its weights quantised alone.
        metric_layers: only so many layers, those that score most by the first method; None: all.
    """

    methods: Sequence[str] = ("fisher",)
    format: str = "int4"
    granularity: str = "channel"
    rule: str = "mse"
    loss: str = "auto"
    activations: str = ""
    samples: int | None = None
    labels: str | None = None
    draws: int | None = None
    seed: int = 0
    threads: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    input_values: Mapping[str, float] | None = None
    metric: str | Callable[[Any], Any] | None = None
    metric_layers: int | None = None

    def checked(self) -> "Question":
        """The same with canonical names.

        Raises:
            InputError: an unknown name, or a number out of range.
        """
        for what, value, known in (
            ("loss", self.loss, LOSSES),
            ("granularity", self.granularity, GRANULARITIES),
            ("activation format", self.activations, ("", *ACTIVATION_FORMATS)),
        ):
            if value not in known:
                raise InputError(
                    f"there is no {what} '{value}'", hint=f"choose from {', '.join(filter(None, known))}"
                )
        if min(self.draws or 1, self.samples or 1) < 1 or 0 in (self.draws, self.samples):
            raise InputError("draws and samples are at least 1", hint="4 draws and 64 samples are usual")
        if self.metric_layers is not None and (self.metric is None or self.metric_layers < 1):
            raise InputError("metric layers are counted from 1", hint="name a metric, and how many layers")
        fmt = resolve(self.format)
        if self.granularity == "group" and not has_group_table(fmt):
            raise InputError(f"{fmt.name} takes no group scales", hint="use --granularity channel")
        methods = tuple(dict.fromkeys(method_named(m) for m in self.methods))
        if not methods:
            raise InputError("no method to apply", hint="for example --method fisher,measured")
        return replace(self, methods=methods, format=fmt.name)


def analyze_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    data: Any,
    question: Question,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Answer a question as a document of plain values.

    Args:
        source: path, bytes or proto of a float model.
        data: samples in any of their forms.
        question: what is asked.
        progress: called with each `progress.Step`.

    Raises:
        LpcompileError: of what the user gave.
    """
    start = time.perf_counter()
    asked, shown = question.checked(), Steps(progress)
    metric = None if asked.metric is None else load_metric(asked.metric)
    with located(source):
        graph = io.load(source)
        check_finite(graph)
        settle_inputs(graph, asked.input_values or {})
        admit(graph)
    calibration = _calibration(graph, data, asked)
    warnings = [advice] if (advice := branch_advice(graph, calibration.calls[0])) else []
    Preparation("ort", Options(input_shapes=dict(asked.input_shapes or {})), shown, warnings).convert(
        graph, decides=True
    )
    context = PassContext(
        run=run_once,
        observe=_observe(asked, calibration.samples),
        target=registry.target("ort"),
        calibration=calibration,
        seed=asked.seed,
        progress=shown,
        warnings=warnings,
    )
    with located(source):
        Pipeline(_passes(FLOAT_PASSES)).run(graph, context)
        graph.infer_shapes()
        activations = _activations(graph, context, asked) if asked.activations else {}
        study = _study(graph, calibration, activations, asked, shown)
        if others := [n.name for n in graph.layers() if not _has_rows(n)]:
            warnings.append(
                f"left out, because their weights are no float32 matrix, or none: {', '.join(others)}"
            )
        found = analyse(study, asked.methods)
        rows = _layer_rows(graph, study, found.weights)
        measured = None if metric is None else _by_metric(metric, study, rows, found, asked)
    return {
        "schema": 1,
        "model": {
            "path": os.fspath(source) if isinstance(source, (str, os.PathLike)) else None,
            "sha256": sha256_of(source),
        },
        "data": calibration.source,
        "samples": _count(graph, calibration),
        "per_sample_gradients": study.samples.per_sample,
        "format": asked.format,
        "granularity": asked.granularity,
        "rule": asked.rule,
        "activation_format": asked.activations or None,
        "loss": found.loss or None,
        "draws": study.draws,
        "seed": asked.seed,
        "methods": list(asked.methods),
        "metric": measured,
        "layers": rows,
        "activations": _rows(found.activations),
        "correlation": _correlation(found, found.weights),
        "activation_correlation": _correlation(found, found.activations),
        "seconds": {k: round(v, 4) for k, v in found.seconds.items()},
        "total_seconds": round(time.perf_counter() - start, 4),
        "versions": versions(),
        "warnings": [*dict.fromkeys([*warnings, *graph.notes, *found.warnings])],
    }


def _by_metric(
    metric: Metric, study: Study, rows: list[dict[str, Any]], found: Sensitivities, asked: Question
) -> dict[str, Any]:
    """Add the drop of the metric to the rows of the layers that score most; the score of the float model."""
    start = time.perf_counter()
    chosen = [r["name"] for r in rows][: asked.metric_layers]
    reference, drops = metric_drops(
        metric,
        study.graph,
        {n: study.rounded_weight(n) for n in chosen},
        threads=asked.threads,
        progress=lambda done, total: study.progress("measuring the metric", done, total),
    )
    for row in rows:
        row["scores"][METRIC_DROP] = drops.get(row["name"])
    found.seconds["metric"] = time.perf_counter() - start
    return {
        "function": metric.reference,
        "smaller_is_better": metric.smaller_is_better,
        "float": reference,
        "layers": len(drops),
    }


def _calibration(graph: LpGraph, data: Any, asked: Question) -> Calibration:
    if data is None:
        raise CalibrationError(
            "there are no samples", hint="give them with --calibration-data; 64 samples are a good start"
        )
    specs = []
    for v in graph.inputs:
        if v.dtype is None:
            raise UnsupportedOpError(
                f"input '{v.name}' is not a tensor", hint="replace sequences and optionals by tensors"
            )
        specs.append(InputSpec(v.name, v.dtype, v.shape))
    inputs = with_shapes(specs, asked.input_shapes or {})
    found = data if isinstance(data, Calibration) else load_samples(data, inputs, asked.labels)
    return found if asked.samples is None else _first(graph, found, asked.samples)


def _first(graph: LpGraph, calibration: Calibration, most: int) -> Calibration:
    """The first samples; a last batch is cut where its size is free."""
    batched = batch_inputs(graph)
    calls, labels, left = [], [], most
    for i, call in enumerate(calibration.calls):
        size = 1 if batched is None else len(call[batched[0]])
        take = min(size, left)
        if take <= 0:
            break
        cut = {k: v[:take] if batched is not None and k in batched else v for k, v in call.items()}
        calls.append(cut)
        labels += (
            [calibration.labels[i][:take] if batched else calibration.labels[i]] if calibration.labels else []
        )
        left -= take
    return replace(calibration, calls=calls, labels=labels)


def _count(graph: LpGraph, calibration: Calibration) -> int:
    batched = batch_inputs(graph)
    return sum(1 if batched is None else len(call[batched[0]]) for call in calibration.calls)


def _observe(asked: Question, samples: int) -> ObserveGraph:
    return lambda graph, tensors: observer(graph, tensors, threads=asked.threads, samples=samples)


def _passes(text: str) -> tuple[Any, ...]:
    return tuple(registry.pass_class(name).configured(given) for name, given in registry.split_pipeline(text))


def _activations(graph: LpGraph, context: PassContext, asked: Question) -> dict[str, ActivationPlan]:
    """What the compiler would hold in integers, whatever it costs in time; the graph's plan stays as it is."""
    copy = graph.copy()
    text = f"quantize-activations{{cost=none,matmul=static,format={asked.activations}}}"
    Pipeline(_passes(text), frozenset(graph.facts)).run(copy, context)
    return dict(copy.plan.activations)


def _study(
    graph: LpGraph,
    calibration: Calibration,
    activations: Mapping[str, ActivationPlan],
    asked: Question,
    progress: Progress,
) -> Study:
    layers = [n.name for n in graph.layers() if _has_rows(n)]
    labels = np.concatenate([np.atleast_1d(a) for a in calibration.labels]) if calibration.labels else None
    samples = Samples.of(graph, layers, _observe(asked, 1), calibration.calls, labels)
    return Study(
        graph=graph,
        layers=layers,
        rounding=WeightRounding(asked.format, asked.granularity, asked.rule),
        samples=samples,
        # the runtime's full optimisation pays: a gradient graph runs for long
        observe=_observe(asked, max(64, len(samples.calls))),
        open_patched=lambda g, names, wanted: PatchedModel(g, names, wanted, threads=asked.threads),
        activations=activations,
        loss=asked.loss,
        draws=asked.draws or min(4, max(2, GRADIENTS // max(1, _count(graph, calibration)))),
        seed=asked.seed,
        progress=progress,
    )


def _has_rows(node: Node) -> bool:
    weight = node.inputs[1]
    matrix = node.op not in MATRICES or (weight is not None and len(weight.dims) == 2)
    return weight is not None and weight.dtype == np.float32 and matrix and 0 not in weight.dims


def _layer_rows(graph: LpGraph, study: Study, columns: Columns) -> list[dict[str, Any]]:
    rows = []
    for row in _rows(columns):
        node = graph.node(row["name"])
        weight = node.inputs[1]
        assert weight is not None
        error = study.errors[row["name"]]
        rows.append(
            {
                "name": row["name"],
                "op": node.op,
                "weight_shape": list(weight.dims),
                "macs": macs(node),
                "weight_error": float(np.square(error, dtype=np.float64).sum()),
                **{k: v for k, v in row.items() if k != "name"},
            }
        )
    return rows


def _rows(columns: Columns) -> list[dict[str, Any]]:
    """One row a layer or tensor, the largest of the first column first."""
    if not columns:
        return []
    first = next(iter(columns.values()))
    names = sorted(first, key=lambda n: -first[n].value)
    return [
        {
            "name": n,
            "scores": {c: s[n].value for c, s in columns.items()},
            "standard_errors": {c: s[n].error for c, s in columns.items()},
        }
        for n in names
    ]


def _correlation(found: Sensitivities, columns: Columns) -> dict[str, Any]:
    return {"columns": list(columns), "spearman": found.correlations(columns)}
