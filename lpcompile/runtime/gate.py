"""The gate after emission: what is written loads in ONNX Runtime at its default level, runs, and agrees.

[architecture 7] Checks: it loads; it runs on samples; outputs are finite where those of the float model are; layers
equal the numpy reference on sampled positions; output SQNR over samples that decided nothing. Dead initialisers cannot
occur (export writes only what is read); a file that grew is a warning of the compilation.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from lpcompile.analysis.calibration import Feeds
from lpcompile.errors import LpcompileError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.compare import Comparison
from lpcompile.runtime.layer_check import LayerCheck, check_layers
from lpcompile.runtime.reference_call import DYADIC_ELEMENTWISE, LAYERS
from lpcompile.runtime.session import Session

TIMED_RUNS = 31
POSITIONS = 16  # of each layer's output, seeded
ELEMENTWISE_STEP = 1  # ONNX Runtime's elementwise QLinear kernels may differ by one step at ties


@dataclass
class Verdict:
    """What the gate found.

    Attributes:
        failure: why the model may not be written; empty where it passed.
        layers: layers at fault, which may stay float instead.
        comparison: against the float model, over the judging calls.
        checks: integer layers against the numpy reference.
        latency_ms: medians of the float and the compiled model, one thread; with --benchmark.
    """

    failure: str = ""
    layers: list[str] = field(default_factory=list)
    comparison: Comparison = field(default_factory=Comparison)
    checks: list[LayerCheck] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)
    ran: bool = False


def judge(
    proto: onnx.ModelProto,
    original: LpGraph | None,
    calls: Sequence[Feeds],
    expected: Sequence[Feeds],
    *,
    threads: int,
    checked: onnx.ModelProto | None = None,
) -> Verdict:
    """Load, run and compare a compiled model.

    Args:
        proto: the compiled model.
        original: the float model, to be timed against; None times nothing.
        calls: the judging calls; empty where the float model could not be run.
        expected: outputs of the float model on them.
        threads: of the runtime.
        checked: the model with its calls, where those of `proto` are inlined.
    """
    verdict = Verdict()
    try:
        session = Session(proto, threads=threads)
        for feeds, wanted in zip(calls, expected, strict=True):
            found = session.run(feeds)
            verdict.comparison.update(wanted, found)
            if broken := _not_finite(wanted, found):
                verdict.failure = f"output '{broken}' of the compiled model is not finite"
                return verdict
        verdict.ran = bool(calls)
        del session  # the check opens its own
        if calls:
            verdict.checks = check_layers(checked or proto, calls[0], positions=POSITIONS)
    except LpcompileError as error:
        verdict.failure = f"the compiled model does not load or run: {error.message}"
        return verdict
    verdict.layers = [c.name for c in verdict.checks if _wrong(c)]
    if verdict.layers:
        verdict.failure = (
            f"{len(verdict.layers)} layers differ from the numpy reference: {', '.join(verdict.layers[:3])}"
        )
    if original is not None and calls and not verdict.failure:
        verdict.latency_ms = _timed(
            Session(original, threads=threads, spin=True),
            Session(proto, threads=threads, spin=True),
            calls[0],
        )
    return verdict


def _wrong(check: LayerCheck) -> bool:
    exact = check.op.startswith((*LAYERS, *DYADIC_ELEMENTWISE))
    return check.largest_step > (0 if exact else ELEMENTWISE_STEP)


def _not_finite(wanted: Feeds, found: Feeds) -> str:
    for name, a in wanted.items():
        b = found.get(name)
        if b is not None and a.dtype == np.float32 and np.isfinite(a).all() and not np.isfinite(b).all():
            return name
    return ""


def _timed(reference: Session, compiled: Session, feeds: Feeds) -> dict[str, float]:
    """Interleaved runs, medians of this thread's time."""
    runs: dict[str, list[float]] = {"float": [], "compiled": []}
    for _ in range(TIMED_RUNS):
        for name, session in (("float", reference), ("compiled", compiled)):
            start = time.perf_counter()
            session.run(feeds)
            runs[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in runs.items()}
