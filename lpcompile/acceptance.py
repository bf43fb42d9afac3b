"""What a target refuses before any work is done: options, number formats, symbolic axes."""

from collections.abc import Sequence

from lpcompile.errors import PipelineError, TargetError
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.target import MACHINE_OPTIONS, Options, Target

LOWEST_OPSET = 13  # per-axis DequantizeLinear, which every quantised layer needs


def check_options(target: Target, options: Options) -> None:
    """Whether a target takes the options that were given.

    Raises:
        PipelineError: it does not know one of them; the command line has refused it before.
    """
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


def check_weight_formats(target: Target, formats: Sequence[str]) -> None:
    """Whether integer layers can hold weights in these formats, where the target expands none to floats.

    Raises:
        TargetError: one they cannot.
    """
    if target.rules.expands_weights:
        return
    for name in formats:
        support = target.supports("Conv", resolve(name))
        if not support.yes:
            raise TargetError(
                support.reason,
                where=name,
                hint="'lpcompile formats' lists the formats that have an int8 image",
            )


def check_graph(target: Target, graph: LpGraph) -> None:
    """Whether the operator set is new enough, and every axis of every input known, but for the batch, the first one.

    Raises:
        TargetError: it is too old, or another axis is symbolic.
    """
    if not target.rules.batch_only:
        return
    if graph.opset < LOWEST_OPSET:
        raise TargetError(
            f"opset {graph.opset} has no integer operators, and the model cannot be raised to {LOWEST_OPSET}",
            hint="export the model again with a newer opset",
        )
    for value in graph.inputs:
        shape = value.shape
        if shape is None:
            raise TargetError(
                f"input '{value.name}' has no known shape",
                where=value.name,
                hint=f"give it one with --input-shape {value.name}=1x...",
            )
        for axis, size in enumerate(shape):
            if axis > 0 and not isinstance(size, int):
                sizes = "x".join(
                    str(d) if isinstance(d, int) else "1" if i == 0 else "N" for i, d in enumerate(shape)
                )
                raise TargetError(
                    f"axis {axis} of input '{value.name}' is not fixed ('{size or '?'}'); only the batch axis may be",
                    where=value.name,
                    hint=f"fix it with --input-shape {value.name}={sizes}, numbers in place of N",
                )
