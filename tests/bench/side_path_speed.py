"""Processor time of a call with int8 weights, with side paths merged and separate: interleaved, medians, one thread."""

import time
from typing import Any

import numpy as np

import lpcompile
from tests.bench.bench_table import Bench, Table
from tests.zoo.entries import session

ENTRIES = ("char_gpt_shakespeare", "minilm_stsb")
RANK, ROUNDS = 8, 101
WEIGHTS = (
    "widen-float16, fold-constants, canonicalize, fold-batchnorm, quantize-activations, "
    "quantize-weights{format=fixp4, granularity=group, scale-format=ufloat8_e4m4}"
)
CASES = {
    "int8": {"recipe": "int8"},
    "merged": {"passes": f"{WEIGHTS}, insert-lora{{rank={RANK}, keep=always, method=svd}}"},
    "separate": {
        "passes": f"{WEIGHTS}, insert-lora{{rank={RANK}, keep=always, method=svd, lowering=separate}}"
    },
}


def measure(bench: Bench) -> Table:
    """One row an entry and lowering."""
    assert bench.zoo is not None
    made = Table(
        f"rank {RANK}: processor time over int8, one thread, {ROUNDS} interleaved calls",
        ("entry", "lowering", "layers with a path", "file KiB", "ms", "over int8", "quartiles"),
    )
    for entry in bench.names(ENTRIES, ENTRIES[:1]):
        samples = bench.zoo.samples(entry)
        models = {
            name: lpcompile.compile(bench.zoo.model(entry), calibration=samples, **case)  # type: ignore[arg-type]
            for name, case in CASES.items()
        }
        feeds = bench.zoo.one_call(entry)
        sessions = {name: session(m.model.SerializeToString(), 1) for name, m in models.items()}
        times = interleaved(sessions, feeds)
        for name, found in times.items():
            ratio = found / times["int8"]
            low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
            made.rows.append(
                (
                    entry,
                    name,
                    sum(r["rank"] > 0 for r in models[name].report["layers"]),
                    round(len(models[name].model.SerializeToString()) / 1024),
                    round(1e3 * float(np.median(found)), 3),
                    round(float(middle), 3),
                    f"{low:.3f} to {high:.3f}",
                )
            )
    made.notes.append(
        "ratios are of calls that followed one another; layers of all models have the same kernels"
    )
    return made


def interleaved(sessions: dict[str, Any], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Seconds of this thread, a call of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(ROUNDS + 5):
        for name, s in sessions.items():
            start = time.thread_time()
            s.run(None, feeds)
            if turn >= 5:
                times[name].append(time.thread_time() - start)
    return {name: np.array(found) for name, found in times.items()}
