"""The end of a compilation: emit, judge, fall back step by step until the gate is passed. [architecture 7]."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.counted import counted
from lpcompile.errors import LpcompileError, ModelError, PassError
from lpcompile.ir.compact import compact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.plan import SUMMING, Kernel, QuantPlan
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.accumulators import int32_obstacle
from lpcompile.recipes import Recipe
from lpcompile.records import PassReport
from lpcompile.reduce_range import keep_within_int16
from lpcompile.runtime.gate import Verdict, judge
from lpcompile.runtime.sizes import Sizes
from lpcompile.target import Emitted, Options, Target

MOST_ATTEMPTS = 8
NEAR_THE_END = 1e30  # of float32: products and sums on the way may be infinite
OUR_BUG = "this is a bug of lpcompile: please report it with the model"


class TooLargeError(PassError):
    """Nothing is left to fall back, and the model is still larger than its input."""


@dataclass(frozen=True)
class Emission:
    """What a compilation hands out.

    Attributes:
        emitted: the model, and what the target builds from.
        sizes: of the model.
        verdict: what the gate found.
        reports: of emitting, and of falling back where that was needed.
        warnings: what the user should read.
    """

    emitted: Emitted
    sizes: Sizes
    verdict: Verdict
    reports: list[PassReport]
    warnings: list[str]


@dataclass(frozen=True)
class Gate:
    """What a model is judged by.

    Attributes:
        calls: the judging calls; empty where the float model could not be run.
        expected: outputs of the float model on them.
        allowed: sizes of the input.
        original: the float model to be timed against, or None.
        recipe: its least SQNR counts.
        progress: called as progress(what, done, total).
    """

    calls: Sequence[Feeds]
    expected: Sequence[Feeds]
    allowed: Sizes
    original: LpGraph | None
    recipe: Recipe
    progress: Progress = no_progress


def emit(graph: LpGraph, target: Target, options: Options, gate: Gate) -> Emission:
    """Emit and judge; layers at fault, or all where the whole is too far off, fall back step by step.

    A target that does not fall back has one attempt: only wrong numbers are an error then, and what is too large, too
    slow or of low quality is a warning. Its model is the reference of something else.

    Raises:
        TooLargeError: the model is larger than its input with nothing left to fall back.
        PassError: no attempt passed for another reason.
    """
    falling, warnings, reason = PassReport("fall-back"), list[str](), ""
    reduced = keep_within_int16(graph)
    for name, obstacle in _beyond_int32(graph.plan).items() if target.rules.falls_back else ():
        layer = replace(graph.plan.layers[name], kernel=Kernel.WEIGHT_ONLY, reason=obstacle)
        graph.plan = graph.plan.with_layer(name, layer)
        falling.change(name, obstacle, after=Kernel.WEIGHT_ONLY.value)
        warnings.append(f"layer '{name}' fell back: {obstacle}")
    for _ in range(MOST_ATTEMPTS):
        emitted, sizes, report = _written(graph, target, options, gate.allowed)
        excess = sizes.excess(gate.allowed)
        verdict = judge(
            emitted.model,
            gate.original,
            gate.calls,
            gate.expected,
            threads=options.threads,
            excess=excess if target.rules.falls_back else "",
            checked=emitted.calls,
            progress=gate.progress,
        )
        low = _low(verdict, gate.recipe)
        reason = verdict.failure or low
        if not target.rules.falls_back:
            if verdict.failure and not verdict.too_slow:
                raise _refusal(verdict, gate)
            slow = verdict.failure and f"the model is {verdict.failure}"
            warnings = [w for w in (excess and f"the model grew: {excess}", slow, low) if w]
            return Emission(emitted, sizes, verdict, [report], [*warnings, *_uncompared(verdict)])
        reports = [r for r in (reduced, report, falling) if r is report or r.changes]
        if not reason:
            return Emission(emitted, sizes, verdict, reports, [*warnings, *_uncompared(verdict)])
        at_fault = outgrown(graph, emitted.weight_bytes) if verdict.too_large else verdict.layers
        changed = [n for n in at_fault if n in {**graph.plan.layers, **graph.plan.elementwise}]
        if changed and not low:
            graph.plan = graph.plan.without(set(changed), reason)
        else:
            graph.plan, changed = graph.plan.more_precise(reason)
        if not changed:
            if verdict.too_large:
                raise TooLargeError(verdict.failure, hint=OUR_BUG)
            if verdict.failure:
                raise _refusal(verdict, gate)
            warnings.append(f"nothing is left to fall back: {reason}")
            return Emission(emitted, sizes, verdict, reports, warnings)
        warnings.append(f"{counted(len(changed), 'layer')} fell back: {reason}")
        for name in changed:
            now = graph.plan.layers.get(name)
            falling.change(name, reason, after=Kernel.FLOAT.value if now is None else now.kernel.value)
    raise PassError(f"no attempt passed the gate: {reason}", hint="please report it with the model")


def _beyond_int32(plan: QuantPlan) -> dict[str, str]:
    """Layers whose sums int32 may not hold with the codes that they have in the end, and why."""
    found = {
        name: int32_obstacle(layer.tensor)
        for name, layer in plan.layers.items()
        if layer.kernel in SUMMING and layer.tensor is not None
    }
    return {name: obstacle for name, obstacle in found.items() if obstacle}


def _refusal(verdict: Verdict, gate: Gate) -> LpcompileError:
    """Whose fault it is that a result may not be written: of a float model that runs, ours."""
    largest = max((_largest(v) for call in gate.expected for v in call.values()), default=0.0)
    if largest > NEAR_THE_END:
        reach = f"outputs of the float model reach {largest:.1e}, near the end of float32"
        return ModelError(f"{reach}, and {verdict.failure}", hint="check its constants and the samples")
    if gate.calls:
        return PassError(verdict.failure, hint=OUR_BUG)
    hint = "give --calibration-data with which 'lpcompile run' runs the float model"
    return ModelError(f"the float model does not run on generated inputs, and {verdict.failure}", hint=hint)


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values[:0]
    return float(np.abs(finite).max(initial=0))


def _written(
    graph: LpGraph, target: Target, options: Options, allowed: Sizes
) -> tuple[Emitted, Sizes, PassReport]:
    """What the target makes, in fewer bytes where it would be larger than allowed."""
    start = time.perf_counter()
    emitted = target.emit(graph, options)
    sizes, smaller = Sizes.of_proto(emitted.model), list[str]()
    if sizes.excess(allowed):
        smaller = compact(emitted.model, lambda p: not Sizes.of_proto(p).excess(allowed))
        sizes = Sizes.of_proto(emitted.model)
    report = PassReport("emit", seconds=time.perf_counter() - start)
    report.metrics["weight_bytes"] = sum(emitted.weight_bytes.values())
    for what in smaller:
        report.change("constants", what)
    return emitted, sizes, report


def _uncompared(verdict: Verdict) -> list[str]:
    return [
        f"output '{name}' is not compared in {count} calls: its length, which depends on the data, is another"
        for name, count in verdict.comparison.unequal.items()
    ]


def _low(verdict: Verdict, recipe: Recipe) -> str:
    quality = verdict.comparison.sqnr_db
    if quality is None or quality >= recipe.min_sqnr_db:
        return ""
    return f"output SQNR {quality:.1f} dB is below the recipe's {recipe.min_sqnr_db:.0f} dB"


def outgrown(graph: LpGraph, weight_bytes: Mapping[str, int]) -> list[str]:
    """Layers whose stored weights take more than the float ones that are no longer needed for them.

    Float weights that several layers read count for each of them in part, and not at all where they stay in the file:
    because somebody else reads them, or a constant that repeats them, as a tied embedding does.
    """
    layers = {n.name: n for n in graph.layers() if n.name in weight_bytes}
    staying = [c for c in graph.constants() if _stays(c, layers)]
    found = []
    for name, node in layers.items():
        weight = node.inputs[1]
        if weight is None:
            continue
        repeated = weight in staying or any(_repeats(weight, c) for c in staying)
        released = 0.0 if repeated else weight.nbytes / len(weight.consumers)
        if weight_bytes[name] > released:
            found.append(name)
    return found


def _stays(constant: Value, layers: Mapping[str, Node]) -> bool:
    """Whether anybody but layers that store it anew reads a constant."""
    weights = {n.inputs[1] for n in layers.values()}
    if constant.is_output or constant.used_in_subgraph or constant not in weights:
        return True
    return any(n.name not in layers for n in constant.consumers)


def _repeats(weight: Value, other: Value) -> bool:
    """Whether `other` holds the same numbers, as they are, in another shape or transposed."""
    if (weight.dtype, weight.nbytes) != (other.dtype, other.nbytes):
        return False
    a, b = weight.values, other.values
    return np.array_equal(a.ravel(), b.ravel()) or (b.ndim == 2 and np.array_equal(a, b.T))
