"""Other tools beside us, called now on the same samples: score, SQNR, bytes, seconds."""

import time
from pathlib import Path

from tests.bench.bench_table import Bench, Table, scratch
from tests.bench.other_tools import TOOLS, remarks
from tests.bench.peers import calls_of
from tests.zoo.entries import Zoo

QUICK = ("tiny_dscnn_kws", "tiny_resnet8_cifar10")
OURS = {"int8": "W8A8", "w4a8": "W4A8", "auto": "W4A8"}


def measure(bench: Bench) -> Table:
    """Each tool and each of our recipes; what fails is a row, too."""
    zoo = bench.zoo
    assert zoo is not None
    header = ("entry", "tool", "widths", "metric", "float", "score", "sqnr_db", "kB", "seconds")
    made = Table("other tools on the same samples, no labels", header, notes=remarks())
    limit = 100 if bench.quick else None
    for entry in bench.names(bench.all_names, QUICK):
        metric, was = zoo.entries[entry]["metric"], round(zoo.score(entry, zoo.model(entry), limit), 4)
        for tool in (t for t in TOOLS if t.installed):
            start = time.perf_counter()
            out = scratch() / f"{entry}-{tool.package}-{tool.widths}.onnx"
            try:
                found = tool.call(zoo.model(entry), out, calls_of(zoo, entry))
                figures = _figures(zoo, entry, found, limit)
            except Exception as error:  # its failure is a result
                figures = (f"fails: {type(error).__name__}", None, None)
            seconds = round(time.perf_counter() - start, 1)
            made.rows.append((entry, tool.shown, tool.widths, metric, was, *figures, seconds))
        for recipe, widths in OURS.items():
            start = time.perf_counter()
            model = bench.model(entry, recipe=recipe)
            seconds = round(time.perf_counter() - start, 1)
            figures = _figures(zoo, entry, model, limit)
            made.rows.append((entry, f"lpcompile {recipe}", widths, metric, was, *figures, seconds))
    return made


def _figures(
    zoo: Zoo, entry: str, model: bytes | Path, limit: int | None
) -> tuple[float | str | None, float | None, float | None]:
    size = len(model) if isinstance(model, bytes) else model.stat().st_size
    score, sqnr = zoo.score(entry, model, limit), zoo.sqnr_db(entry, model)
    return round(score, 4), round(sqnr, 2), round(size / 1000, 1)
