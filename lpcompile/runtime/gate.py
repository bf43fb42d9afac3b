"""The gate after emission: what is written loads in ONNX Runtime at its default level, runs, and agrees.

[architecture 7] Checks: it is no larger than its input allows; it loads; it runs on samples; outputs are finite where
those of the float model are; layers equal the numpy reference on sampled positions; output SQNR over samples that
decided nothing; with --benchmark it is not slower than the float model. Dead initialisers cannot occur (export writes
only what is read).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx

from lpcompile.analysis.calibration import Feeds
from lpcompile.counted import counted
from lpcompile.errors import LpcompileError
from lpcompile.ir.graph import LpGraph
from lpcompile.memory import return_free_blocks
from lpcompile.progress import Progress, no_progress
from lpcompile.runtime.benchmark import Timing, timed
from lpcompile.runtime.compare import Comparison
from lpcompile.runtime.layer_check import LayerCheck, check_layers
from lpcompile.runtime.session import Session

SLOWER = "slower than the float model when both were timed"  # no figures: decisions.toml holds no time
POSITIONS = 16  # of each layer's output, seeded


@dataclass
class Verdict:
    """What the gate found.

    Attributes:
        failure: why the model may not be written; empty where it passed.
        layers: layers at fault, which may stay float instead.
        comparison: against the float model, over the judging calls.
        checks: integer layers against the numpy reference.
        too_large: whether it failed for its size, which layers with many scales may be the cause of.
        too_slow: whether it failed for its time alone.
        timing: of the float and the compiled model; with --benchmark.
        outputs: of the compiled model on the first judging call.
    """

    failure: str = ""
    layers: list[str] = field(default_factory=list)
    comparison: Comparison = field(default_factory=Comparison)
    checks: list[LayerCheck] = field(default_factory=list)
    timing: Timing | None = None
    too_large: bool = False
    too_slow: bool = False
    ran: bool = False
    outputs: Feeds = field(default_factory=dict)


def judge(
    proto: onnx.ModelProto,
    original: LpGraph | None,
    calls: Sequence[Feeds],
    expected: Sequence[Feeds],
    *,
    threads: int,
    excess: str = "",
    checked: onnx.ModelProto | None = None,
    progress: Progress = no_progress,
) -> Verdict:
    """Load, run and compare a compiled model.

    Args:
        proto: the compiled model.
        original: the float model, to be timed against; None times nothing.
        calls: the judging calls; empty where the float model could not be run.
        expected: outputs of the float model on them.
        threads: of the runtime.
        excess: what of it is too large; then it is not run.
        checked: the model with its calls, where those of `proto` are inlined.
        progress: called as progress(what, done, total).
    """
    if excess:
        return Verdict(excess, too_large=True)
    verdict = Verdict(comparison=Comparison(free=_found_axes(proto)))
    try:
        session = Session(proto, threads=threads)
        for i, (feeds, wanted) in enumerate(zip(calls, expected, strict=True)):
            progress("comparing with the float model", i, len(calls))
            found = session.run(feeds)
            verdict.outputs = verdict.outputs or found
            verdict.comparison.update(wanted, found, feeds)
            if broken := _not_finite(wanted, found):
                verdict.failure = f"output '{broken}' of the compiled model is not finite"
                return verdict
        verdict.ran = bool(calls)
        del session  # the check opens its own
        return_free_blocks()
        if calls:
            verdict.checks = check_layers(
                checked or proto,
                calls[0],
                positions=POSITIONS,
                progress=lambda done, total: progress("checking layers", done, total),
            )
    except LpcompileError as error:
        verdict.failure = f"the compiled model does not load or run: {error.message}"
        return verdict
    verdict.layers = [c.name for c in verdict.checks if c.wrong]
    if verdict.layers:
        verdict.failure = (
            f"{counted(len(verdict.layers), 'layer', 'differs', 'differ')} from the numpy reference: "
            f"{', '.join(verdict.layers[:3])}"
        )
    if original is not None and calls and not verdict.failure:
        verdict.timing = timed(
            partial(Session, original, threads=threads, spin=True),
            partial(Session, proto, threads=threads, spin=True),
            calls[0],
            progress,
        )
        if verdict.timing.slower:
            verdict.failure, verdict.too_slow = SLOWER, True
    return verdict


def _found_axes(proto: onnx.ModelProto) -> dict[str, frozenset[int]]:
    """By output, axes without a length that no input has either: operators such as NonMaxSuppression find it."""
    known = {d.dim_param for i in proto.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param}
    return {
        o.name: frozenset(
            i
            for i, d in enumerate(o.type.tensor_type.shape.dim)
            if not d.HasField("dim_value") and d.dim_param not in known
        )
        for o in proto.graph.output
    }


def _not_finite(wanted: Feeds, found: Feeds) -> str:
    for name, a in wanted.items():
        b = found.get(name)
        if b is not None and a.dtype == np.float32 and np.isfinite(a).all() and not np.isfinite(b).all():
            return name
    return ""
