"""Times as ratios: interleaved runs in one process, one thread each, medians."""

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.zoo.entries import Feeds, session


def time_ratios(models: Mapping[str, bytes | Path], feeds: Feeds, rounds: int) -> dict[str, float]:
    """Median time of every model over that of the first, and the first's median in ms under the key ""."""
    sessions = {name: session(model, threads=1) for name, model in models.items()}
    for s in sessions.values():
        for _ in range(2):
            s.run(None, feeds)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, s in sessions.items():
            start = time.thread_time()
            s.run(None, feeds)
            times[name].append(time.thread_time() - start)
    base = np.array(next(iter(times.values())))
    found = {name: float(np.median(np.array(t) / np.maximum(base, 1e-9))) for name, t in times.items()}
    return {"": 1e3 * statistics.median(base), **found}


def command_seconds(words: Sequence[str], runs: int) -> float:
    """Median wall time of a command in a fresh process."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(words, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
