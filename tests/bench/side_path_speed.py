"""Processor time and output SQNR with int8 weights and with side paths in each form: interleaved, medians, one thread.

Paths are those of recipe `npp`, kept in any case.
"""

import time
from typing import Any, TypeVar

import numpy as np

import lpcompile
from lpcompile.recipes import load_recipe
from tests.bench.bench_table import Bench, Table
from tests.bench.experiments.entry_figures import EntryFigures
from tests.zoo.entries import session

ENTRIES = ("char_gpt_shakespeare", "minilm_stsb")
RANK, ROUNDS = 8, 101
INT8 = "int8"
Key = TypeVar("Key")
ALONE = "no path"
FORMS = ((ALONE, 0), ("merged", RANK), ("separate", RANK), ("concat-in", RANK), ("concat-in", 2 * RANK))


def pipeline(lowering: str, rank: int) -> str:
    """Recipe `npp` with paths of a rank in a form, or without."""
    text, own = load_recipe("npp").pipeline, f"insert-lora{{rank={RANK}}}"
    assert own in text
    if lowering == ALONE:
        return text.replace(f"{own},", "")
    return text.replace(own, f"insert-lora{{rank={rank},keep=always,lowering={lowering}}}")


def measure(bench: Bench) -> Table:
    """One row an entry and form."""
    assert bench.zoo is not None
    made = Table(
        f"forms of side paths: processor time over int8, one thread, {ROUNDS} interleaved calls",
        (
            "entry",
            "form",
            "rank",
            "layers with a path",
            "bits a weight",
            "SQNR dB",
            "ms",
            "over int8",
            "quartiles",
        ),
    )
    for entry in bench.names(ENTRIES, ENTRIES[:1]):
        samples, figures = bench.zoo.samples(entry), EntryFigures(bench.zoo, entry)
        models = {
            (form, rank): lpcompile.compile(
                bench.zoo.model(entry), calibration=samples, passes=pipeline(form, rank)
            )
            for form, rank in FORMS
        }
        models = {
            (INT8, 0): lpcompile.compile(bench.zoo.model(entry), calibration=samples, recipe=INT8),
            **models,
        }
        feeds = bench.zoo.one_call(entry)
        sessions = {key: session(m.model.SerializeToString(), 1) for key, m in models.items()}
        times = interleaved(sessions, feeds)
        for key, found in times.items():
            ratio, report = found / times[INT8, 0], models[key].report
            low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
            made.rows.append(
                (
                    entry,
                    *key,
                    sum(r["rank"] > 0 for r in report["layers"]),
                    round(report["totals"]["bits_per_weight"], 2),
                    round(figures.sqnr_db(models[key].model), 2),
                    round(1e3 * float(np.median(found)), 3),
                    round(float(middle), 3),
                    f"{low:.3f} to {high:.3f}",
                )
            )
    made.notes.append(
        "ratios are of calls that followed one another; layers of all models have the same kernels; "
        "SQNR of 64 evaluation samples"
    )
    return made


def interleaved(sessions: dict[Key, Any], feeds: dict[str, np.ndarray]) -> dict[Key, np.ndarray]:
    """Seconds of this thread, a call of each in turn."""
    times: dict[Key, list[float]] = {name: [] for name in sessions}
    for turn in range(ROUNDS + 5):
        for name, s in sessions.items():
            start = time.thread_time()
            s.run(None, feeds)
            if turn >= 5:
                times[name].append(time.thread_time() - start)
    return {name: np.array(found) for name, found in times.items()}
