"""Passes in an order that is checked when it is built, before any weight is read."""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

from lpcompile.analysis.activation_ranges import ActivationRanges
from lpcompile.analysis.calibration import Calibration, RunFeeds
from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.measured import OpenPatched
from lpcompile.errors import LpcompileError, PassError, PassOptionError, PipelineError
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from lpcompile.memory import collect_replaced, freed_blocks_kept
from lpcompile.plan import ActivationOptions, LayerPlan, QuantPlan, WeightPlan
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.concat_path import HiddenSample
from lpcompile.quant.input_metric import InputMetric
from lpcompile.records import PassReport
from lpcompile.target import Target

Arrays = dict[str, np.ndarray]
RunModel = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], Arrays]
ObserveGraph = Callable[[LpGraph, Sequence[str]], RunFeeds]


@dataclass(frozen=True, slots=True, eq=False)
class CarriedOut:
    """How a layer was rounded, so that who would round it alike need not.

    Attributes:
        plan: of its weights.
        sweeps: after GPTQ.
        metric: of rounding errors.
        codes_sha256: what came out.
    """

    plan: WeightPlan
    sweeps: int
    metric: InputMetric | None
    codes_sha256: str


@dataclass
class PassContext:
    """What a pass may ask for beyond its graph.

    Attributes:
        run: runs a small float model in the runtime: (proto, feeds) -> outputs by name.
        observe: opens a float graph so that it gives named tensors: (graph, tensors) -> feeds -> values by name.
        decisions: a plan to carry out instead of deciding (`--decisions`).
        target: the target's facts (kernels, cost table); None in unit tests of graph passes.
        calibration: the samples, or None where the user gave none.
        seed: of every random choice.
        progress: called as progress(what, done, total) by loops that may take seconds.
        entering: called with the name of each pass before it runs, and with "" after the last.
        keep_float: names of nodes that the user wants float.
        warnings: what the user should read; passes append.
        weights: how a later pass will store weights, where all of one pipeline agree; kernels are chosen by it.
        activations: how a later pass will round activations; None where none does.
        statistics: of activations, by tensor name, once a pass has gathered them (one sweep serves all).
        metrics: of rounding errors, by layer, once a pass has gathered them.
        without_metric: layers that have none, and why.
        path_inputs: samples of what layers read, once a pass has gathered them for their side paths.
        ranges: how planned activations got theirs, so that other widths can be weighed; None where none is planned.
        layer_formats: what the user wants of layers by name, "REGEX=FORMAT[/GRANULARITY]".
        scored: candidates of layers once a pass has scored them; another budget needs no new scores.
        finalists: further assignments that measured well, by name: plans before their weights are rounded.
        rounded: layers as they were rounded to formats that were tried, by name and weight plan.
        carried_out: layers whose weights were rounded as their plan says it, by name.
        learned_tables: layers whose tables were learned from some of their weights while formats were tried.
        checkpoint: folder for the state of long passes after each round, or None.
        resume: go on from what is in that folder.
        open_patched: opens a float graph so that named weights can be exchanged between runs.
        machine: name or path of the machine (targets with machines).
        emit: form of the model to come.
        resident: whether the weights are taken to fit the machine together (targets with machines).
    """

    run: RunModel | None = None
    observe: ObserveGraph | None = None
    decisions: QuantPlan | None = None
    target: Target | None = None
    calibration: Calibration | None = None
    seed: int = 0
    progress: Progress = no_progress
    entering: Callable[[str], object] = str
    keep_float: frozenset[str] = frozenset()
    weights: WeightPlan | None = None
    activations: ActivationOptions | None = None
    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    metrics: dict[str, InputMetric] = field(default_factory=dict)
    without_metric: dict[str, str] = field(default_factory=dict)
    path_inputs: dict[str, HiddenSample] = field(default_factory=dict)
    ranges: ActivationRanges | None = None
    layer_formats: tuple[str, ...] = ()
    scored: dict[str, Any] = field(default_factory=dict)
    finalists: dict[str, QuantPlan] = field(default_factory=dict)
    rounded: dict[tuple[str, WeightPlan], LayerPlan] = field(default_factory=dict)
    carried_out: dict[str, CarriedOut] = field(default_factory=dict)
    learned_tables: frozenset[str] = frozenset()
    warnings: list[str] = field(default_factory=list)
    checkpoint: Path | None = None
    resume: bool = False
    open_patched: OpenPatched | None = None
    machine: str | None = None
    emit: str = "functions"
    resident: bool = True

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator from the seed, so that no pass depends on the draws of another."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, slots=True)
class Pass(ABC):
    """One rewrite of the float graph or of its plan; the options are the dataclass fields."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    exact: ClassVar[bool] = True  # outputs must not change beyond rounding (checked by --verify)
    rewrites: ClassVar[bool] = (
        False  # the float graph, though not exactly: who makes that again needs this pass
    )
    requires: ClassVar[frozenset[Fact]] = frozenset()
    establishes: ClassVar[frozenset[Fact]] = frozenset()
    invalidates: ClassVar[frozenset[Fact]] = frozenset()
    many_temporaries: ClassVar[bool] = False  # large ones, again and again: freed memory is kept at hand
    takes: ClassVar[tuple[str, ...]] = ()  # further arguments of its function (`pass_functions.ARGUMENTS`)

    def planned_weights(self) -> WeightPlan | None:
        """How this pass stores weights, if that is its task."""
        return None

    def planned_activations(self) -> ActivationOptions | None:
        """How this pass rounds activations, if that is its task."""
        return None

    @property
    def wanted_labels(self) -> str | None:
        """Name of an array of labels that the samples must bring; None: none."""
        return None

    @abstractmethod
    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Change the graph or its plan in place and say what was done."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Option name (kebab-case) -> default value."""
        found = {}
        for f in fields(cls):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            found[f.name.replace("_", "-")] = None if default is MISSING else default
        return found

    @classmethod
    def option_texts(cls) -> dict[str, str]:
        """Option name -> what it means, from the `Attributes` of the class's docstring."""
        _, _, listed = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
        found: dict[str, str] = {}
        for line in listed.splitlines():
            head, colon, text = line.strip().partition(": ")
            if line.startswith("    ") and not line.startswith("     ") and colon:
                names = head.split(", ")
                found |= dict.fromkeys(names, text)
            elif line.strip():
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
        return found

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> "Pass":
        """Build the pass from option texts or values; unknown names and wrong kinds are PassOptionError."""
        known = cls.options()
        values: dict[str, Any] = {}
        for key, given in options.items():
            if key not in known:
                raise PassOptionError(
                    f"pass '{cls.name}' has no option '{key}'",
                    hint=f"its options are: {', '.join(known) or 'none'}",
                )
            values[key.replace("-", "_")] = _converted(cls.name, key, given, known[key])
        try:
            return cls(**values)
        except ValueError as error:
            raise PassOptionError(
                f"pass '{cls.name}': {error}", hint=f"see 'lpcompile passes {cls.name}'"
            ) from error

    @property
    def text(self) -> str:
        """The pass as pipeline text, default options left out."""
        shown = [
            f"{f.name.replace('_', '-')}={_shown(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != self.options()[f.name.replace("_", "-")]
        ]
        return self.name + (f"{{{','.join(shown)}}}" if shown else "")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _converted(name: str, key: str, given: Any, default: Any) -> Any:
    text = _shown(given)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text]
        if isinstance(default, (int, float)):
            return type(default)(text)
    except (KeyError, ValueError) as error:
        raise PassOptionError(
            f"pass '{name}': option '{key}' takes a {type(default).__name__}, not '{text}'",
            hint=f"its default is {key}={_shown(default)}",
        ) from error
    return text


def pipeline_text(passes: Sequence[Pass]) -> str:
    """Passes as they can be typed again."""
    return ",".join(p.text for p in passes)


Observer = Callable[[int, Pass, LpGraph, PassReport], None]


def quiet(_index: int, _pass: Pass, _graph: LpGraph, _report: PassReport) -> None:
    """Observe nothing."""


PLANNED = frozenset({Fact.ACTIVATIONS_QUANTIZED, Fact.FORMATS_ASSIGNED, Fact.WEIGHTS_QUANTIZED})


class Kind(StrEnum):
    """What a pass works on.

    REWRITES: the float graph. STARTS: a plan for a float graph. CARRIES_ON: a plan that another pass has started.
    """

    REWRITES = "rewrites"
    STARTS = "starts"
    CARRIES_ON = "carries-on"


def kind_of(cls: type[Pass]) -> Kind:
    """The kind of a pass, from the facts that it requires and establishes."""
    if cls.requires & PLANNED:
        return Kind.CARRIES_ON
    return Kind.STARTS if cls.establishes & PLANNED else Kind.REWRITES


@dataclass(frozen=True)
class Pipeline:
    """A tuple of passes whose order was checked."""

    passes: tuple[Pass, ...]
    given: frozenset[Fact] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        held = set(self.given)
        for p in self.passes:
            for missing in sorted(p.requires - held):
                raise PipelineError(
                    f"pass '{p.name}' requires '{missing.value}', which no earlier pass establishes",
                    hint=_who_establishes(missing, self.passes),
                )
            held -= p.invalidates
            held |= p.establishes

    @property
    def text(self) -> str:
        """The pipeline as it can be typed again."""
        return pipeline_text(self.passes)

    @property
    def planned_weights(self) -> WeightPlan | None:
        """How weights will be stored; None where no pass stores them, or several differ."""
        found = {w for p in self.passes if (w := p.planned_weights()) is not None}
        return found.pop() if len(found) == 1 else None

    @property
    def planned_activations(self) -> ActivationOptions | None:
        """How activations will be rounded; None where no pass rounds them."""
        return next((a for p in self.passes if (a := p.planned_activations()) is not None), None)

    def run(
        self, graph: LpGraph, ctx: PassContext, observe: Observer = quiet, *, first: int = 0
    ) -> list[PassReport]:
        """Run every pass in place; structure is checked after each. `first` is the number of the first one.

        Raises:
            PassError: a pass broke the graph or failed in a way that is our bug; names pass, node, passes before it.
        """
        reports: list[PassReport] = []
        done: list[str] = []
        for index, p in enumerate(self.passes):
            ctx.entering(p.name)
            start = time.perf_counter()
            try:
                with freed_blocks_kept() if p.many_temporaries else nullcontext():
                    report = p.run(graph, ctx)
                verify_graph(graph)
            except LpcompileError as error:
                if isinstance(error, PassError):
                    raise PassError(
                        f"pass '{p.name}' (after {', '.join(done) or 'none'}): {error.message}",
                        hint=error.hint,
                        where=error.where,
                    ) from error
                raise
            report.seconds = time.perf_counter() - start
            graph.facts -= p.invalidates
            graph.facts |= p.establishes
            if report.changes and p.exact:  # a graph pass: weights may have been replaced
                collect_replaced(graph.take_discarded_bytes())
            reports.append(report)
            done.append(p.name)
            observe(first + index, p, graph, report)
        ctx.entering("")
        return reports


def _who_establishes(fact: Fact, passes: Sequence[Pass]) -> str:
    from lpcompile.registry import all_passes

    known = all_passes()
    makers = sorted(
        (name for name, cls in known.items() if fact in cls.establishes),
        key=lambda n: len(known[n].establishes),
    )
    if not makers:
        return f"the caller must provide '{fact.value}' before the pipeline starts"
    later = [p.name for p in passes if p.name in makers]
    return f"put '{(later or makers)[0]}' before it, or use a recipe"
