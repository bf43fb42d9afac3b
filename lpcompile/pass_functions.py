"""Passes as functions: one for each entry of the registry, signature and documentation from its options.

`lpcompile.passes.fold_batchnorm(model)` gives a new model. Passes that decide give a `PlannedModel`, the first of them
from a model, the others from a `PlannedModel`:

    planned = lpcompile.passes.quantize_activations(model, calibration=samples)
    planned = lpcompile.passes.quantize_weights(planned, format="fixp4", rounding="gptq")
    model = planned.materialise()
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lpcompile import registry
from lpcompile.acceptance import check_axes, check_opset, check_options
from lpcompile.analysis.inputs import InputSpec, with_shapes
from lpcompile.analysis.samples import load_samples
from lpcompile.argument_types import check_fields
from lpcompile.decisions import read_decisions
from lpcompile.errors import InputError, PassOptionError, PipelineError
from lpcompile.ir import io
from lpcompile.ir.finite import check_finite
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.settled_inputs import settle_inputs
from lpcompile.pipeline import PLANNED, Kind, Pass, Pipeline, kind_of
from lpcompile.planned_model import PlannedModel, carried_on, context_of
from lpcompile.prepared import Preparation
from lpcompile.progress import Steps
from lpcompile.provenance import located
from lpcompile.target import Options

_OF_OPTIONS = frozenset(
    f.name for f in fields(Options)
)  # arguments that are options of a compilation as well
MODEL = "str | PathLike[str] | bytes | ModelProto"


@dataclass(frozen=True)
class Argument:
    """An argument beside the options of a pass: annotation, default, and what it is."""

    annotation: str
    default: Any
    what: str


ARGUMENTS = {
    "calibration": Argument(
        "Any", None, "samples as `lpcompile.compile` takes them; None: none, or those of the plan."
    ),
    "target": Argument("str", "ort", '"ort" or "cim".'),
    "machine": Argument("str | None", None, "name or description of the machine, of targets with machines."),
    "seed": Argument("int", 0, "of every random choice."),
    "threads": Argument("int", 0, "of ONNX Runtime; 0 leaves it to the runtime."),
    "keep_float": Argument("Sequence[str]", (), "names of nodes that stay float."),
    "reduce_range": Argument(
        "str",
        "auto",
        '"on": weights whose products x86 without VNNI adds right; "auto": where this CPU needs them; or "off".',
    ),
    "input_shapes": Argument(
        "Mapping[str, tuple[int, ...]] | None", None, "concrete shapes of inputs with symbolic axes."
    ),
    "input_values": Argument(
        "Mapping[str, float] | None",
        None,
        "inputs that take one value for good; `fold_constants` folds the branches that they choose.",
    ),
    "layer_formats": Argument(
        "Sequence[str]", (), '"REGEX=FORMAT[/GRANULARITY]" of layers by name; first wins.'
    ),
    "followed_by": Argument(
        "str",
        "",
        "pipeline text of passes that shall follow, whose formats this one suits, as "
        '"quantize-activations{format=uint4},quantize-weights{format=nf4}".',
    ),
    "decisions": Argument(
        "str | PathLike[str] | None", None, "a `decisions.toml` to carry out instead of deciding."
    ),
    "checkpoint": Argument(
        "str | PathLike[str] | None", None, "folder for the state after each block or epoch."
    ),
    "resume": Argument("bool", False, "go on from the state in that folder."),
    "report": Argument(
        "Callable[[PassReport], object] | None",
        None,
        "called with what the pass did and left alone (`records.PassReport`).",
    ),
    "progress": Argument(
        "Callable[[Step], object] | None",
        None,
        "called with a `Step` as loops go on.",
    ),
}
FOLD_FIRST = (
    "layers in branches stay float: lpcompile.passes.fold_constants(model, input_values=...) puts the branch in place "
    "that a settled input chooses"
)
STARTING = (
    *("calibration", "target", "machine", "seed", "threads", "keep_float", "reduce_range"),
    *("input_shapes", "input_values"),
    *("followed_by", "decisions"),
)
ALWAYS = ("report", "progress")
FIRST = {
    Kind.REWRITES: ("model", MODEL, "path, bytes or proto; it is not changed.", "ModelProto"),
    Kind.STARTS: ("model", MODEL, "path, bytes or proto of floats; it is not changed.", "PlannedModel"),
    Kind.CARRIES_ON: ("planned", "PlannedModel", "from an earlier pass; it is not changed.", "PlannedModel"),
}
GIVES = {"ModelProto": "The rewritten model.", "PlannedModel": "The model with what was decided so far."}


def arguments_of(cls: type[Pass]) -> tuple[str, ...]:
    """Names of the arguments of a pass's function beside its options, those that all take last."""
    return (*(STARTING if kind_of(cls) is Kind.STARTS else ()), *cls.takes, *ALWAYS)


def signature_of(cls: type[Pass]) -> inspect.Signature:
    """The signature of a pass's function; annotations are texts where they name types of this package."""
    name, annotation, _, gives = FIRST[kind_of(cls)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    first = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
    options = [
        inspect.Parameter(f.name, keyword, default=cls.options()[f.name.replace("_", "-")], annotation=f.type)
        for f in fields(cls)
    ]
    further = [
        inspect.Parameter(n, keyword, default=ARGUMENTS[n].default, annotation=ARGUMENTS[n].annotation)
        for n in arguments_of(cls)
    ]
    return inspect.Signature([first, *options, *further], return_annotation=gives)


def documentation_of(cls: type[Pass]) -> str:
    """What help() shows: the words of the pass, then its arguments."""
    name, _, what, gives = FIRST[kind_of(cls)]
    module = inspect.cleandoc(inspect.getmodule(cls).__doc__ or "")
    own = inspect.cleandoc(cls.__doc__ or "")
    lines = [module, "", own, "", "Args:", f"    {name}: {what}"]
    lines += [f"    {n}: {ARGUMENTS[n].what}" for n in arguments_of(cls)]
    lines += ["", "Returns:", f"    {GIVES[gives]}", "", "Raises:"]
    lines += ["    PassOptionError: there is no such option, or a value is of the wrong kind."]
    lines += ["    LpcompileError: see `lpcompile.errors` for the tree."]
    return "\n".join(lines)


@functools.cache
def function_of(name: str) -> Callable[..., Any]:
    """A registered pass as a function.

    Raises:
        PipelineError: there is no such pass.
    """
    cls = registry.pass_class(name)
    signature, kind = signature_of(cls), kind_of(cls)
    run = {Kind.REWRITES: _rewrite, Kind.STARTS: _start, Kind.CARRIES_ON: _carry_on}[kind]

    def function(*given: Any, **named: Any) -> Any:
        for word in named:
            if word not in signature.parameters:
                known = list(signature.parameters)[1:]
                raise PassOptionError(
                    f"pass '{name}' has no option '{word}'", hint=registry.near_match(word, known)
                )
        bound = signature.bind(*given, **named).arguments
        options = {f.name.replace("_", "-"): bound[f.name] for f in fields(cls) if f.name in bound}
        first = bound[next(iter(signature.parameters))]
        call = {n: bound.get(n, ARGUMENTS[n].default) for n in arguments_of(cls)}
        return run(cls.configured(options), first, call)

    function.__name__ = function.__qualname__ = name.replace("-", "_")
    function.__module__ = "lpcompile.passes"
    function.__doc__ = documentation_of(cls)
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    function.__annotations__["return"] = signature.return_annotation
    return function


def _rewrite(done: Pass, model: Any, call: Mapping[str, Any]) -> ModelProto:
    if isinstance(model, PlannedModel):
        raise PipelineError(
            f"pass '{done.name}' rewrites the float graph, and a plan for it exists already",
            hint="rewrite the float model first, then plan",
        )
    graph, preparation = _opened(model, call)
    graph.infer_shapes()
    target = registry.target(call.get("target", "ort"))
    data = call.get("calibration")
    calibration = None if data is None else load_samples(data, _inputs(graph))
    later = _later(call)
    context = preparation.context(target, None, calibration, (done, *later))
    # The caller knows the order; what other passes establish is a matter of how well this one works.
    (said,) = Pipeline((done,), frozenset(done.requires)).run(graph, context)
    _tell(call, said)
    return graph.to_proto()


def _start(done: Pass, model: Any, call: Mapping[str, Any]) -> PlannedModel:
    if isinstance(model, PlannedModel):
        raise PipelineError(
            f"pass '{done.name}' starts a plan, and there is one already", hint="give it the float model"
        )
    target = registry.target(call["target"])
    graph, preparation = _opened(model, call)
    check_options(target, preparation.options)
    for name in preparation.options.keep_float:
        if name not in {n.name for n in graph.nodes()}:
            raise InputError(
                f"there is no node '{name}'",
                hint=registry.near_match(name, [n.name for n in graph.nodes()], registry.NODES),
            )
    decisions = None if call["decisions"] is None else read_decisions(Path(call["decisions"]))
    with located(model):
        check_axes(target, with_shapes(_inputs(graph), preparation.options.input_shapes))
    inputs = with_shapes(_inputs(graph), preparation.options.input_shapes)
    calibration = preparation.samples(target, graph, call["calibration"], (done,), inputs)
    preparation.convert(graph, decides=True)
    check_opset(target, graph)
    if call["input_values"] and graph.nodes("If"):
        preparation.warnings.append(FOLD_FIRST)
    graph.facts |= done.requires - PLANNED
    context = preparation.context(target, decisions, calibration, (done, *_later(call)))
    empty = PlannedModel(graph.to_proto(), preparation.options, (), (), graph, context)
    return _told(call, carried_on(empty, done, context))


def _carry_on(done: Pass, planned: Any, call: Mapping[str, Any]) -> PlannedModel:
    if not isinstance(planned, PlannedModel):
        raise PipelineError(
            f"pass '{done.name}' carries on a plan, not a {type(planned).__name__}",
            hint="start one with lpcompile.passes.quantize_activations(model, calibration=...)",
        )
    steps = Steps(call["progress"])
    changed: dict[str, Any] = {"progress": steps, "entering": steps.entering}
    if call.get("calibration") is not None:
        changed["calibration"] = load_samples(
            call["calibration"],
            with_shapes(_inputs(LpGraph.from_proto(planned.source)), planned.options.input_shapes),
            done.wanted_labels,
        )
    if "checkpoint" in call:
        changed |= {"checkpoint": _path(call["checkpoint"]), "resume": call["resume"]}
    if "layer_formats" in call:
        changed["layer_formats"] = tuple(call["layer_formats"])
    return _told(call, carried_on(planned, done, context_of(planned, **changed)))


def _opened(model: Any, call: Mapping[str, Any]) -> tuple[LpGraph, Preparation]:
    """The float graph, and what loads and checks."""
    check_fields(Options, {n: v for n, v in call.items() if n in _OF_OPTIONS and v is not None}, "a pass")
    with located(model):
        graph = io.load(model)
        check_finite(graph)
        settle_inputs(graph, call.get("input_values") or {})
    given = {
        n: call[n]
        for n in ("seed", "threads", "keep_float", "reduce_range", "input_shapes", "machine")
        if call.get(n) is not None
    }
    options = Options(**given)
    return graph, Preparation(call.get("target", "ort"), options, Steps(call["progress"]))


def _later(call: Mapping[str, Any]) -> tuple[Pass, ...]:
    named = registry.split_pipeline(call["followed_by"]) if call.get("followed_by") else []
    return tuple(registry.pass_class(name).configured(options) for name, options in named)


def _inputs(graph: LpGraph) -> list[InputSpec]:
    return [InputSpec(v.name, v.dtype, v.shape) for v in graph.inputs if v.dtype is not None]


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _tell(call: Mapping[str, Any], report: Any) -> None:
    if call["report"] is not None:
        call["report"](report)


def _told(call: Mapping[str, Any], planned: PlannedModel) -> PlannedModel:
    _tell(call, planned.reports[-1])
    return planned
