"""Accuracy of the int8 reference graph of `cim` against the int8 graph of `ort`, sample by sample."""

from typing import Any

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
            cim = bench.model(name, target="cim", recipe="int8", **_shapes(zoo, name))
        except LpcompileError as error:
            made.rows.append((name, entry["metric"], *[None] * 8, "refused", None, None))
            made.notes.append(f"{name}: {error.message}")
            continue
        ort = bench.model(name, recipe="int8")
        figures = _figures(zoo, name, ort, cim, limit)
        shown = (round(f, 4) if isinstance(f, float) else f for f in figures)
        # the graph of fixed height and width takes no other image
        sqnr = (round(zoo.sqnr_db(name, m), 2) for m in (ort, cim))
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


def _shapes(zoo: Zoo, name: str) -> dict[str, Any]:
    """Shapes of the samples for inputs that leave more than the batch open."""
    entry = zoo.entries[name]["input"]
    if sum(not isinstance(d, int) for d in entry["shape"]) < 2:
        return {}
    array = zoo.samples(name, limit=1)[entry["name"]]
    return {"input_shapes": {entry["name"]: (1, *array.shape[1:])}}
