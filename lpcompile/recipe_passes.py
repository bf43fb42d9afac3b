"""The passes of a compilation: the recipe's pipeline with what the options and the target change in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lpcompile import registry
from lpcompile.acceptance import check_dual_precision, check_weight_formats
from lpcompile.analysis.activation_ranges import LEVELS
from lpcompile.assignment.budget import ADDITIVE, DEFAULT_AVG_BITS, Budget
from lpcompile.decisions import Decisions
from lpcompile.errors import PipelineError
from lpcompile.formats.group import has_group_table
from lpcompile.formats.planned import format_of, planned_name
from lpcompile.ir.facts import Fact
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.passes.candidate_plans import MORE
from lpcompile.passes.finalists import MOST as MOST_FINALISTS
from lpcompile.passes.quantize_activations import QuantizeActivations
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.plan import MERGED
from lpcompile.recipes import Recipe
from lpcompile.target import FLOAT8_FORM, INTEGER_FORM, Options, Target

ASSIGN, ROUND, TUNE = "assign-formats", "quantize-weights", "tune-weights"
DUAL, WITHOUT_FP8 = "dual-precision", "run-on-integers"
AGAIN = "requantize-weights"
LORA = "insert-lora"
RANKS = "2+4+8+16"  # that are tried where they are chosen
LEARN = "reconstruct-blocks"
BY_KIND, HELD = "distribution-heterogeneous", "quantnorm"
SCALES, FACTORS = "tune-scales", "tune-factors"
ACTIVATIONS, EQUALIZE, SMOOTH, SUMS = "quantize-activations", "equalize", "smooth-inputs", "widen-sums"
AFTER_ROUNDING = ("correct-bias", AGAIN, LEARN)  # what effort 0 leaves out
LAST_STAGE = {"loss": "kl-or-mse", "epochs": 4, "learning-rate": 0.0003, "ranges": "narrow"}  # of effort 3
POSITS = "posit-fraction"  # a bound under which int8 would always win
WIDEST = "uint8"  # of activations
WIDE = "int8"  # what a layer may take beside the one format that was asked for


def default_recipe(target: Target, options: Options) -> str:
    """The recipe of a user who names none; a weight format alone means all layers in it, where nothing is expanded."""
    if options.weight_format and not target.rules.expands_weights:
        return WIDE
    if options.weight_format and not options.budget and format_of(options.weight_format).bits > 4:
        return WIDE  # nothing to be chosen
    return target.default_recipe()


def recipe_passes(
    target: Target, options: Options, recipe: Recipe, decisions: Decisions | None, *, strict: bool
) -> tuple[Pass, ...]:
    """Configured passes, in order.

    Args:
        target: where the result shall run.
        options: the user's.
        recipe: named or given.
        decisions: to be replayed; they name their own pipeline.
        strict: without folds and copies that enlarge the model.

    Raises:
        PipelineError: an impossible order, an unknown pass or option.
        TargetError: the target cannot hold a weight format.
    """
    text = options.passes or (decisions.header.get("pipeline") if decisions else "") or recipe.pipeline
    named = registry.split_pipeline(text)
    if not options.passes and decisions is None:
        named = _with_assignment(named, options, target, _own_budget(recipe, options, target))
        named = _for_narrow_activations(named, options)
        named = _with_side_paths(named, options)
    if any(name == DUAL for name, _ in named):
        check_dual_precision(target, options)
        named = _with_form(named, options)
    elif options.emit in (FLOAT8_FORM, INTEGER_FORM):
        raise PipelineError(
            f"--emit {options.emit} writes layers that compute in FP8, and this pipeline plans none",
            hint="use it with --recipe dpq",
        )
    if options.tuning is not None and all(name != TUNE for name, _ in named):
        at = _end([name for name, _ in named])
        named = [*named[:at], (TUNE, {}), *named[at:]]
    assigns = any(name == ASSIGN for name, _ in named)
    found = []
    for name, given in named:
        extra: dict[str, Any] = {}
        if name in (*AFTER_ROUNDING, SMOOTH) and options.effort == 0:
            continue
        if name == ROUND and not options.passes:
            extra = _weight_options(given, options, target, assigns=assigns)
            check_weight_formats(target, [{"format": WIDE, **given, **extra}["format"]])
        if name == DUAL and not options.passes:
            extra = _dual_options(options)
        if name == ASSIGN and not options.passes and decisions is None:
            extra = _assignment_options(given, options, target)
        if name == BY_KIND and options.weight_format and not options.passes:
            extra = {"format": options.weight_format}
        if name == ACTIVATIONS and options.activation_format:
            extra = {"format": options.activation_format}
        if name == TUNE and options.tuning is not None:
            extra = dict(options.tuning)
        if name == AGAIN and options.effort > 1 and not options.passes and "finalists" not in given:
            extra = {"finalists": MOST_FINALISTS}
        if name == "fold-constants" and strict:
            extra = {"growth-bytes": 0}
        if name == "widen-float16" and strict:
            extra = {"copies": False}
        found.append(registry.pass_class(name).configured({**given, **extra}))
    return tuple(found) if options.passes or decisions is not None else _with_learning(found, options)


def _with_form(named: list[tuple[str, dict[str, str]]], options: Options) -> list[tuple[str, dict[str, str]]]:
    """With the pass that takes FP8 out, where the form is that of integers; what effort adds comes after.

    Raises:
        PipelineError: the form is of FP8, and the pipeline takes it out.
    """
    planned = any(name == WITHOUT_FP8 for name, _ in named)
    if options.emit == FLOAT8_FORM and planned:
        raise PipelineError(
            f"--emit {FLOAT8_FORM} writes layers that compute in FP8, and '{WITHOUT_FP8}' leaves none",
            hint="leave one of them out",
        )
    return [*named, (WITHOUT_FP8, {})] if options.emit == INTEGER_FORM and not planned else named


def _with_learning(passes: Sequence[Pass], options: Options) -> tuple[Pass, ...]:
    """With what efforts 2 and 3 add where weights have few bits: learned blocks, and retraining of the whole.

    Codes that are read as FP8 are rounded again for what the rounded network gives: three times the time of their pass.
    """
    names = [p.name for p in passes]
    if options.effort > 1 and DUAL in names and AGAIN not in names:
        return (*passes, registry.pass_class(AGAIN).configured({"finalists": 0}))
    if options.effort < 2 or not has_few_bits(passes):
        return tuple(passes)
    found = list(passes)
    if any(isinstance(p, QuantizeActivations) and _is_narrow(p.format) for p in passes):
        # Blocks learn from the first codes: those that follow the noise of narrow inputs hold on samples alone.
        found = [p for p in passes if p.name != AGAIN]
        names = [p.name for p in found]
    if LEARN not in names:
        last = max(i for i, name in enumerate(names) if name in (ASSIGN, ROUND, *AFTER_ROUNDING))
        found.insert(last + 1, registry.pass_class(LEARN).configured({}))
    if options.effort > 2 and TUNE not in names:
        last_stage = registry.pass_class(TUNE).configured({**LAST_STAGE, "required": False})
        found.insert(_end([p.name for p in found]), last_stage)
    return tuple(found)


def _end(names: Sequence[str]) -> int:
    """Where retraining goes: at the end, but before the tuning of scales and factors, which leaves its codes alone."""
    return next((i for i, name in enumerate(names) if name in (SCALES, FACTORS)), len(names))


def has_few_bits(passes: Sequence[Pass]) -> bool:
    """Whether weights of a pipeline may have fewer than 8 bits."""
    assigning = [p for p in passes if isinstance(p, AssignFormats)]
    if assigning:
        return any(format_of(f).bits < 8 for p in assigning for f in p.formats.split("+"))
    planned = [w for p in passes if (w := p.planned_weights()) is not None]
    return any(format_of(w.format).bits < 8 for w in planned)


def _with_side_paths(
    named: list[tuple[str, dict[str, str]]], options: Options
) -> list[tuple[str, dict[str, str]]]:
    """Side paths of the rank that the user asks for, right after weights are rounded; rank 0 takes them out.

    Where formats are assigned under a budget, ranks are chosen with them.
    """
    names = [name for name, _ in named]
    if ROUND not in names or (options.rank is None and LORA not in names):
        return named
    bare = [(name, given) for name, given in named if name != LORA]
    if options.rank == 0:
        return bare
    if ASSIGN in names:
        ranks = {"ranks": RANKS if options.rank is None else str(options.rank)}
        return [(name, {**given, **ranks} if name == ASSIGN else given) for name, given in bare]
    if options.rank is None:
        return named
    rank = {"rank": str(options.rank)}
    if LORA in names:
        return [(name, {**given, **rank} if name == LORA else given) for name, given in named]
    at = names.index(ROUND) + 1
    return [*named[:at], (LORA, rank), *named[at:]]


def _is_narrow(activation_format: str) -> bool:
    return LEVELS.get(activation_format, LEVELS[WIDEST]) < LEVELS[WIDEST]


def effort_document(passes: Sequence[Pass], options: Options) -> dict[str, Any]:
    """For report.json: the level, what of the pipeline learns, and a note where a level adds nothing."""
    dual = any(p.name == DUAL for p in passes)
    learned = [
        p.name for p in passes if p.name in (LEARN, TUNE, SCALES, FACTORS) or (dual and p.name == AGAIN)
    ]
    note = ""
    if options.effort > 1 and not learned:
        rounds = any(p.name == ROUND for p in passes)
        why = "its weights have 8 bits or more" if rounds else "it rounds no weights"
        if options.passes or options.decisions is not None:
            why = "the pipeline is given"
        note = f"-O{options.effort} adds nothing to -O1 here: {why}"
    return {"level": options.effort, "learned_by": learned, "note": note}


def _own_budget(recipe: Recipe, options: Options, target: Target) -> dict[str, str]:
    """Options of `assign-formats` by a recipe that chooses side paths within a budget; empty where it does not.

    A rank or a budget of the user's is what it says, and paths that are not merged have costs that are not known.
    """
    if (
        not recipe.avg_bits
        or options.budget
        or options.rank is not None
        or MERGED not in target.rules.side_paths
    ):
        return {}
    return {"avg-bits": str(recipe.avg_bits), "nearest": "true"}


def _with_assignment(
    named: list[tuple[str, dict[str, str]]], options: Options, target: Target, own: Mapping[str, str]
) -> list[tuple[str, dict[str, str]]]:
    """A recipe of one format of few bits chooses between it and int8 within a budget, or for layers by name."""
    names = [name for name, _ in named]
    wanted = Budget.of(options.budget).additive or options.layer_formats or own
    if ASSIGN in names or ROUND not in names or not wanted:
        return named
    named = [(name, given) for name, given in named if name != BY_KIND]  # the budget decides
    at = [name for name, _ in named].index(ROUND)
    fmt = planned_name(options.weight_format or named[at][1].get("format", WIDE))
    if format_of(fmt).bits >= 8 and not options.layer_formats:
        return named
    chosen = [fmt, *([MORE] if own else []), WIDE]  # who asks for a format gets it, and int8 where it pays
    return [*named[:at], (ASSIGN, {"formats": "+".join(dict.fromkeys(chosen)), **own}), *named[at:]]


def _for_narrow_activations(
    named: list[tuple[str, dict[str, str]]], options: Options
) -> list[tuple[str, dict[str, str]]]:
    """Where the user asks for activations of few bits, channels that share a range are first made alike.

    And what only sums read keeps 8 bits.
    """
    names = [name for name, _ in named]
    if not _is_narrow(options.activation_format or WIDEST) or ACTIVATIONS not in names:
        return named
    at = names.index(next(n for n in (SMOOTH, SUMS, ACTIVATIONS) if n in names))
    wanted = (SUMS,) if options.effort == 0 else (EQUALIZE, SUMS)
    return [*named[:at], *((name, {}) for name in wanted if name not in names), *named[at:]]


def _assignment_options(given: Mapping[str, str], options: Options, target: Target) -> dict[str, Any]:
    budget = Budget.of(options.budget)
    extra: dict[str, Any] = dict(budget.additive)
    if not options.budget and not any(k in given for k in ADDITIVE):
        extra |= {"avg-bits": DEFAULT_AVG_BITS, "nearest": True}  # nobody asked for just that
    if options.weight_format:
        fmt = options.weight_format
        bounded = bool(extra) or any(k in given for k in ADDITIVE if k != POSITS)
        extra["formats"] = f"{fmt}+{WIDE}" if bounded and fmt != WIDE else fmt
        if POSITS in given:
            extra.setdefault(POSITS, 0)  # the recipe's share is one of its own formats
    grouped = options.group_size or (options.group_size is None and target.rules.group_scales)
    if not grouped:
        extra["granularities"] = "channel"
    elif options.group_size:
        extra["granularities"] = f"channel+group{options.group_size}"
    if options.activation_format:
        extra["activations"] = WIDEST  # all as the user said
    if options.effort == 0:
        extra |= {"joint": 0, "rounding": "nearest"}
    return extra


def _weight_options(
    given: Mapping[str, str], options: Options, target: Target, *, assigns: bool
) -> dict[str, Any]:
    extra: dict[str, Any] = {"rounding": "nearest"} if options.effort == 0 else {}
    if given.get("granularity") == "group" and not target.rules.group_scales:
        extra["granularity"] = "channel"
    if options.weight_format and not assigns:
        fmt = format_of(options.weight_format)
        extra["format"] = planned_name(options.weight_format)
        grouped = given.get("granularity") == "group"
        if grouped and not has_group_table(fmt):
            extra["granularity"] = "channel"  # 8-bit formats and formats without an int8 image
    if options.group_size is not None:
        extra["granularity"] = "group" if options.group_size else "channel"
        if options.group_size:
            extra["group-size"] = options.group_size
    return extra


def _dual_options(options: Options) -> dict[str, Any]:
    extra: dict[str, Any] = {"rule": "nearest"} if options.effort == 0 else {}
    if options.group_size is not None:
        extra["group-size"] = options.group_size
    if options.activation_format:
        extra["activations"] = options.activation_format
    return extra


def labels_of(passes: tuple[Pass, ...]) -> str | None:
    """Name of the array of labels that a pass learns from; None where none does."""
    return next((p.wanted_labels for p in passes if p.wanted_labels is not None), None)


def split_at_assignment(
    passes: tuple[Pass, ...], given: frozenset[Fact] = frozenset()
) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """The passes before formats are assigned, and the others; the second is empty where none assigns them."""
    names = [p.name for p in passes]
    Pipeline(passes, given)  # the order is checked as a whole
    at = names.index(ASSIGN) if ASSIGN in names else len(passes)
    return passes[:at], passes[at:]
