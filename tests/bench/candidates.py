"""Seconds to fit all candidates of a ResNet-18-shaped network, and what a coarse fit gives away."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from lpcompile.assignment.candidates import FORMATS, SHORT_SCALES, candidates_of, fit_candidates
from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import WeightPlan
from lpcompile.quant.coarse_fit import CHANNEL, CoarseFit
from lpcompile.quant.codebook_search import Fitting, fit_codebook
from lpcompile.quant.rows import to_rows
from lpcompile.registry import target
from tests.bench.bench_table import Bench, Table
from tests.bench.resnet18 import resnet18

THREADS = 2
SIZES = (8, 16, 32, 64, 128, CHANNEL)
TABLES = tuple(f for f in FORMATS if f not in ("lut4", "int8"))
SAMPLE = 1 << 17


def measure(bench: Bench) -> Table:
    """Seconds of the processor and of the clock; the steps overlap with none but the total."""
    weights = [(n, v) for n in _layers() if (v := n.inputs[1]) is not None]
    layers = [(to_rows(n.op, v.values), candidates_of(n, target("ort"))) for n, v in weights]
    layers = layers[:6] if bench.quick else layers
    rng = np.random.default_rng(0)
    moments = [np.asarray(rng.lognormal(0, 1, w.shape[1]), np.float32) for w, _ in layers]
    count = sum(w.size for w, _ in layers)
    made = Table(
        f"candidates of {len(layers)} layers, {count / 1e6:.1f} M weights",
        ("step", "cpu s", "wall s", "ns / weight"),
    )

    def timed(step: str, work: Callable[[], object]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        made.rows.append((step, round(cpu, 2), round(wall, 2), round(1e9 * cpu / count, 1)))

    def all_of(layer: tuple[tuple[F32, Sequence[WeightPlan]], F32]) -> int:
        (w, plans), h = layer
        return len(fit_candidates(w, plans, importance=h).candidates)

    samples = [np.ascontiguousarray(w[:: max(1, w.size // SAMPLE)]) for w, _ in layers]
    shared = [
        CoarseFit(w, h, SIZES, scale_format=SHORT_SCALES) for w, h in zip(samples, moments, strict=True)
    ]
    estimates: list[tuple[CoarseFit, Any]] = []
    timed(
        "estimates",
        lambda: estimates.extend((c, e) for c in shared for f in TABLES for e in c.estimates(resolve(f))),
    )
    timed(f"coarse fits of all {len(estimates)}", lambda: [c.fitted(e) for c, e in estimates])
    timed(
        "learned tables, thorough",
        lambda: [
            fit_codebook(w, Fitting("group", 32, "output-mse", SHORT_SCALES, h))
            for w, h in zip(samples, moments, strict=True)
        ],
    )
    todo = list(zip(layers, moments, strict=True))
    timed("fit_candidates, one thread", lambda: [all_of(layer) for layer in todo])
    with ThreadPoolExecutor(THREADS) as pool:
        timed(f"fit_candidates, {THREADS} threads", lambda: list(pool.map(all_of, todo)))
    for name in ("fixp4", "posit4"):
        how = Fitting("group", 32, "output-mse", SHORT_SCALES)
        timed(f"final fit, {name} group32", partial(_finals, how, name, todo))
    made.notes.append("seconds of a shared machine; bar: all candidates within 10 s on two threads")
    return made


def _final(how: Fitting, name: str, layer: F32, moments: F32) -> object:
    return Fitting(how.granularity, how.group_size, how.rule, how.scale_format, moments).fit(
        layer, resolve(name)
    )


def _finals(how: Fitting, name: str, todo: Sequence[tuple[tuple[F32, object], F32]]) -> list[object]:
    return [_final(how, name, w, moments) for (w, _), moments in todo]


def _layers() -> list[Node]:
    return LpGraph.from_proto(resnet18(0, 64)).layers()
