"""Networks of one's own: SQNR of every output on samples that calibrated nothing, time and size beside float.

A folder holds NAME.onnx, NAME.calib.npz and NAME.eval.npz, arrays as the compiler takes them. What fails is a row, too.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import lpcompile
from lpcompile.analysis.samples import load_samples
from lpcompile.runtime.session import Session
from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.peers import static_int8
from tests.bench.timing import time_ratios
from tests.zoo.entries import Feeds, session

RECIPES = ("int8", "auto")
PEER = "ONNX Runtime quantize_static"
PEER_CALLS, CALLS, QUICK_CALLS, ROUNDS = 32, 64, 4, 21


def measure(bench: Bench) -> Table:
    """Recipes `int8` and `auto` with their defaults, and ONNX Runtime's own int8."""
    header = ("network", "made by", "sqnr_db", "time / float", "file / float", "seconds")
    made = Table("networks of a folder, scored on samples that calibrated nothing", header)
    made.notes.append("SQNR of the outputs in turn; time of one call, one thread, interleaved")
    for model in sorted(bench.networks.glob("*.onnx")):
        calib, held = (model.with_suffix(f".{split}.npz") for split in ("calib", "eval"))
        if (bench.entries and model.stem not in bench.entries) or (bench.quick and made.rows):
            continue
        if not (calib.is_file() and held.is_file()):
            made.notes.append(f"{model.stem}: left out, {calib.name} and {held.name} must be there")
            continue
        rows = _rows(model, calib, _calls(model, held)[: QUICK_CALLS if bench.quick else CALLS], bench.quick)
        print(*rows, sep="\n", flush=True)
        made.rows += rows
    return made


def _rows(model: Path, calib: Path, held: Sequence[Feeds], quick: bool) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name in (*RECIPES[: 1 if quick else None], PEER):
        start = time.perf_counter()
        try:
            file = _by_peer(model, calib) if name == PEER else _by_us(model, calib, name)
            seconds = time.perf_counter() - start
            sqnr = "/".join(f"{value:.1f}" for value in sqnr_db(model, file, held))
            ratio = time_ratios({"float": model, "ours": file}, held[0], 5 if quick else ROUNDS)["ours"]
            figures: tuple[object, ...] = (sqnr, round(ratio, 2), _size(file, model))
        except Exception as error:  # its failure is a result, ours is a defect
            if name != PEER and not isinstance(error, lpcompile.LpcompileError):
                raise
            seconds = time.perf_counter() - start
            figures = (f"fails: {type(error).__name__}", None, None)
        rows.append((model.stem, name, *figures, round(seconds, 1)))
    return rows


def _size(file: Path, model: Path) -> float:
    return round(file.stat().st_size / model.stat().st_size, 3)


def _by_us(model: Path, calib: Path, recipe: str) -> Path:
    out = scratch() / f"{model.stem}-{recipe}.onnx"
    made = lpcompile.compile(model, calibration=calib, recipe=recipe).model
    out.write_bytes(made.SerializeToString(deterministic=True))
    return out


def _by_peer(model: Path, calib: Path) -> Path:
    calls = _calls(model, calib)[:PEER_CALLS]
    return static_int8(model, scratch() / f"{model.stem}-peer.onnx", iter(calls))


def _calls(model: Path, samples: Path) -> list[Feeds]:
    """Calls as the compiler makes them of the samples."""
    return [dict(call) for call in load_samples(samples, Session(model).inputs).calls]


def sqnr_db(model: Path, compiled: Path, calls: Sequence[Mapping[str, np.ndarray]]) -> list[float]:
    """Signal over noise of every float output, summed over all calls; NaN where there is no signal.

    Args:
        model: of floats.
        compiled: of the same inputs and outputs.
        calls: what both are run on.
    """
    float_session, ours = session(model), session(compiled)
    sums: list[tuple[float, float]] = []
    for call in calls:
        outputs = zip(float_session.run(None, dict(call)), ours.run(None, dict(call)), strict=True)
        found = [_sums(a.astype(np.float64), b.astype(np.float64)) for a, b in outputs if _is_float(a)]
        sums = [(s + t, m + n) for (s, m), (t, n) in zip(sums, found, strict=True)] if sums else found
    with np.errstate(divide="ignore", invalid="ignore"):
        return [float(10 * np.log10(np.float64(s) / np.float64(n))) for s, n in sums]


def _is_float(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def _sums(was: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    return float((was * was).sum()), float(((was - found) ** 2).sum())
