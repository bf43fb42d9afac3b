"""How fast formats encode and decode."""

import time

import numpy as np

from lpcompile.formats.base import resolve
from tests.bench.bench_table import Bench, Table
from tests.bench.four_bit import FORMATS

BAR = 100.0  # M elements a second on one core, 4-bit formats


def measure(bench: Bench) -> Table:
    """Best of some runs on normal numbers."""
    made = Table("encode and decode, M elements a second", ("format", "encode", "decode", "bar"))
    size = 1 << (18 if bench.quick else 22)
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    for name in (*FORMATS, "int4", "int8", "posit8", "float8_e4m3fn"):
        fmt = resolve(name)
        scaled = x * np.float32(fmt.max / 4)
        codes = fmt.encode(scaled)
        rates = [size / _best(call) / 1e6 for call in (lambda: fmt.encode(scaled), lambda: fmt.decode(codes))]  # noqa: B023
        made.rows.append((name, round(rates[0], 1), round(rates[1], 1), BAR if fmt.bits == 4 else None))
    return made


def _best(call: object, runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.thread_time()
        call()  # type: ignore[operator]
        times.append(time.thread_time() - start)
    return min(times)
