"""Accuracy of the int8 reference graph of `cim` against the int8 graph of `ort`, sample by sample."""

from typing import Any

import lpcompile
from lpcompile.errors import LpcompileError
from tests.bench.bars import MOST_SAMPLES, TOP1_DROP
from tests.bench.bench_table import Bench, Table
from tests.zoo.entries import Zoo

QUICK = ("tiny_dscnn_kws",)
HEADER = ("entry", "metric", "N", "ort", "cim", "drop", "b", "c", "error", "limit", "verdict", "sqnr_db ort",
          "sqnr_db cim")  # fmt: skip


def measure(bench: Bench) -> Table:
    """Top-1 paired with `ort`, other metrics side by side; SQNR of the first output against float."""
    zoo = bench.zoo
    assert zoo is not None
    made = Table("cim int8 against ort int8 (b lost, c won; met: drop - error <= limit)", HEADER)
    limit = 100 if bench.quick else None
    for name in bench.names(bench.all_names, QUICK):
        entry = zoo.entries[name]
        try:
            cim = _compiled(zoo, name)
        except LpcompileError as error:
            made.rows.append((name, entry["metric"], *[None] * 8, "refused", None, None))
            made.notes.append(f"{name}: {error.message}")
            continue
        ort = bench.model(name, recipe="int8")
        figures = _figures(zoo, name, ort, cim, limit)
        shown = (round(f, 4) if isinstance(f, float) else f for f in figures)
        batch = 1 if entry["metric"] == "psnr_y" else None
        sqnr = (round(zoo.sqnr_db(name, m, batch=batch), 2) for m in (ort, cim))
        made.rows.append((name, entry["metric"], *shown, *sqnr))
    return made


def _figures(zoo: Zoo, name: str, ort: bytes, cim: bytes, limit: int | None) -> tuple[Any, ...]:
    """From N to the verdict."""
    entry = zoo.entries[name]
    now = zoo.score(name, cim, limit)
    if entry["metric"] != "top1":
        was = zoo.score(name, ort, limit)
        sign = 1 if entry.get("higher_is_better", True) else -1
        return (entry["fp32"]["n"], was, now, sign * (was - now), None, None, None, None, "reported")
    pair = zoo.paired(name, cim, limit, against=ort)
    met = pair.drop - pair.standard_error <= TOP1_DROP
    verdict = "reported" if pair.samples < MOST_SAMPLES else "met" if met else "MISSED"
    found = (pair.drop, pair.lost, pair.won, pair.standard_error, TOP1_DROP)
    return (pair.samples, now + pair.drop, now, *found, verdict)


def _compiled(zoo: Zoo, name: str) -> bytes:
    """The reference graph; height and width that the graph leaves open are those of the evaluation set."""
    entry, samples, shapes = zoo.entries[name], zoo.samples(name), {}
    if entry["metric"] == "psnr_y":
        shapes = {k: (1, *v.shape[1:]) for k, v in zoo.samples(name, "eval", 1).items()}
        samples = {k: v[..., : shapes[k][-2], : shapes[k][-1]] for k, v in samples.items()}
    made = lpcompile.compile(
        zoo.model(name), target="cim", recipe="int8", calibration=samples, input_shapes=shapes
    )
    return bytes(made.model.SerializeToString())
