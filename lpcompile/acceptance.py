"""What a target refuses before any work is done: options, number formats, symbolic axes."""

from collections.abc import Mapping, Sequence

from lpcompile.analysis.inputs import InputSpec
from lpcompile.errors import InputError, PipelineError, TargetError
from lpcompile.formats.planned import format_of
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, QuantPlan
from lpcompile.target import MACHINE_OPTIONS, REDUCE_RANGE, Options, Target

LOWEST_OPSET = 13  # per-axis DequantizeLinear, which every quantised layer needs


def check_options(target: Target, options: Options) -> None:
    """Whether a target takes the options that were given.

    Raises:
        InputError: a number out of range; the command line has refused it before.
        PipelineError: it does not know one of them; so has it this.
        TargetError: a bound on energy, of which it knows nothing.
    """
    for name in ("seed", "threads"):
        if getattr(options, name) < 0:
            raise InputError(f"'{name}' is at least 0, not {getattr(options, name)}", hint="0 is the default")
    if options.reduce_range not in REDUCE_RANGE:
        raise InputError(
            f"'reduce_range' is no '{options.reduce_range}'", hint=f"it is one of: {', '.join(REDUCE_RANGE)}"
        )
    given = [name for name in MACHINE_OPTIONS if getattr(options, name)]
    if given and not target.rules.has_machines:
        raise PipelineError(
            f"target '{target.name}' takes no option '{given[0]}'",
            hint="it is for targets with machines: cim",
        )
    if options.emit not in target.rules.emit_forms:
        raise PipelineError(
            f"target '{target.name}' cannot emit '{options.emit}'",
            hint=f"it emits: {', '.join(target.rules.emit_forms)}",
        )
    if "energy-pj" in options.budget and not target.rules.has_machines:
        raise TargetError(
            f"the energy of layers is not known for '{target.name}'",
            hint="energies belong to targets with machines: use --target cim",
        )


def check_weight_formats(target: Target, formats: Sequence[str]) -> None:
    """Whether integer layers can hold weights in these formats, where the target expands none to floats.

    Raises:
        TargetError: one they cannot.
    """
    if target.rules.expands_weights:
        return
    for name in formats:
        support = target.supports("Conv", format_of(name))
        if not support.yes:
            raise TargetError(
                support.reason,
                where=name,
                hint="'lpcompile formats' lists the formats that have an int8 image",
            )


def check_dual_precision(target: Target, options: Options) -> None:
    """Whether int4 weights that are read as FP8 suit a target and the other options.

    Raises:
        TargetError: the target has no float arithmetic.
        PipelineError: an option that belongs to other formats.
    """
    if not target.rules.expands_weights:
        raise TargetError(
            f"target '{target.name}' has no FP8 arithmetic, which 'dual-precision' is made for",
            hint="use --recipe w4a8: 4-bit weights and 8-bit integers",
        )
    for option, given, why in (
        ("--weight-format", options.weight_format not in (None, "int4"), "its weights are int4"),
        ("--group-size", options.group_size == 0, "its scales belong to groups: give a size"),
        ("--tune", options.tuning is not None, "its codes are not retrained"),
        ("--layer-format", bool(options.layer_formats), "its weights are int4"),
    ):
        if given:
            raise PipelineError(f"'dual-precision' does not go with {option}", hint=why)


def check_opset(target: Target, graph: LpGraph) -> None:
    """Whether the operator set is new enough for a target without floats to fall back to.

    Raises:
        TargetError: it is too old.
    """
    if target.rules.batch_only and graph.opset < LOWEST_OPSET:
        raise TargetError(
            f"opset {graph.opset} has no integer operators, and the model cannot be raised to {LOWEST_OPSET}",
            hint="export the model again with a newer opset",
        )


def check_axes(target: Target, inputs: Sequence[InputSpec]) -> None:
    """Whether every axis of every input is known, but for the batch, which is the first one.

    Args:
        target: one that wants them known, or none is checked.
        inputs: of the model, with what is known of them.

    Raises:
        TargetError: another one is symbolic.
    """
    for spec in inputs if target.rules.batch_only else ():
        if (shape := spec.shape) is None:
            raise TargetError(
                f"input '{spec.name}' has no known shape",
                where=spec.name,
                hint=f"give it one, as --input-shape {spec.name}=1x3x224x224",
            )
        for axis, size in enumerate(shape):
            if axis > 0 and not isinstance(size, int):
                words = [
                    "1" if i == 0 and not isinstance(d, int) else str(d or "?") for i, d in enumerate(shape)
                ]
                raise TargetError(
                    f"axis {axis} of input '{spec.name}' is not fixed ('{size or '?'}'); only the batch axis may be",
                    where=spec.name,
                    hint=f"fix it with --input-shape {spec.name}={'x'.join(words)}, names replaced by numbers",
                )


def check_outputs(target: Target, graph: LpGraph, kinds: Mapping[str, str]) -> None:
    """Whether a program can give every output: a tensor that is computed.

    Args:
        target: one without floats to fall back to, or none is checked.
        graph: the model.
        kinds: of its outputs, as the runtime spells them: tensor(float), seq(tensor(float)).

    Raises:
        TargetError: one is a constant, a sequence, a map or an optional.
    """
    for value in graph.outputs if target.rules.batch_only else ():
        kind = kinds.get(value.name, "tensor")
        if not kind.startswith("tensor"):
            raise TargetError(
                f"output '{value.name}' is a {kind}, and a program gives tensors",
                where=value.name,
                hint="export the model with tensors as outputs",
            )
        if value.is_constant:
            raise TargetError(
                f"output '{value.name}' is a constant, and a program gives what it computes",
                where=value.name,
                hint="take it out of the outputs: it is the same in every call",
            )


def check_rounded(plan: QuantPlan, hint: str) -> None:
    """Refuse to emit layers that are planned on codes and have none.

    Args:
        plan: after all passes.
        hint: what would round them.

    Raises:
        PipelineError: there are such layers.
    """
    waiting = [k for k, v in plan.layers.items() if v.kernel is not Kernel.FLOAT and v.tensor is None]
    if waiting:
        raise PipelineError(
            f"the weights of {len(waiting)} layers are planned and not rounded, as of '{waiting[0]}'",
            hint=hint,
        )
