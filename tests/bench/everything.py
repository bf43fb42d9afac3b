"""`python -m tests.bench all`: every table and every experiment, each kept as it is done.

A table is kept as FOLDER/tables/NAME.json with its times, processor and versions; an experiment as FOLDER/NAME.csv and
.svg.  What is there is not made again without `again`, so a run that was cut off goes on where it was. With --quick
everything is of few entries and samples, and stands in a folder of its own: figures to see that the commands work.
"""

import importlib
import json
import os
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpcompile.report.table import table
from tests.bench.bench_table import Bench, Table
from tests.bench.catalogue import EXPERIMENTS, NEED_ZOO, TABLES
from tests.bench.machine import about_this

QUICK_FOLDER = "quick"
QUICK_ENTRIES, QUICK_EFFORTS = ("tiny_dscnn_kws",), (1,)  # where none are named
LEFT_OUT_IN_QUICK = {
    "fewest_bits": "compiles a larger network many times",
    "mixed_posit_tuned": "retrains networks for many minutes",
    "estimators": "retrains networks for many minutes",
}


def run_all(bench: Bench, out: Path, *, again: bool = False) -> list[str]:
    """Make what is missing; the names of what failed.

    Args:
        bench: what was asked for.
        out: folder of the results.
        again: make everything anew.
    """
    folder = out / QUICK_FOLDER if bench.quick else out
    if bench.quick:
        entries, efforts = bench.entries or QUICK_ENTRIES, bench.efforts or QUICK_EFFORTS
        bench = replace(bench, entries=entries, efforts=efforts)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    print(", ".join(f"{k} {v}" for k, v in about_this().items()), flush=True)
    failed = []
    for kind, names in (("table", TABLES), ("experiment", EXPERIMENTS)):
        for name in names:
            kept = (
                folder
                / ("tables" if kind == "table" else "")
                / f"{name}.{'json' if kind == 'table' else 'csv'}"
            )
            reason = _left_out(name, kind, bench)
            if reason or (kept.exists() and not again):
                print(f"\n{kind} {name}: {reason or f'is there, {kept}'}", flush=True)
                continue
            start, own = time.perf_counter(), processor_seconds()
            try:
                found = _table(name, bench, kept) if kind == "table" else _experiment(name, bench, folder)
                took = (
                    f"{time.perf_counter() - start:.0f} s, {processor_seconds() - own:.0f} s of the processor"
                )
                print(f"\n{kind} {name} ({took})\n{found}", flush=True)
            except Exception:
                failed.append(name)
                print(f"\n{kind} {name} failed:\n{traceback.format_exc()}", flush=True)
    took = f"{processor_seconds():.0f} s of the processor"
    print(f"\nfailed: {', '.join(failed) or 'nothing'}; {took}; results under {folder}")
    return failed


def processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def _left_out(name: str, kind: str, bench: Bench) -> str:
    if bench.zoo is None and (kind == "experiment" or name in NEED_ZOO):
        return "left out, --zoo or LPCOMPILE_ZOO must name a folder with a zoo.json"
    if bench.quick and name in LEFT_OUT_IN_QUICK:
        return f"left out with --quick: {LEFT_OUT_IN_QUICK[name]}"
    return ""


def _table(name: str, bench: Bench, kept: Path) -> str:
    start, own = time.perf_counter(), processor_seconds()
    made: Table = importlib.import_module(f"tests.bench.{name}").measure(bench)
    seconds = {"seconds": time.perf_counter() - start, "processor_seconds": processor_seconds() - own}
    kept.write_text(json.dumps(as_json(made, seconds), indent=1) + "\n", "utf-8")
    return "\n".join([made.title, table(made.header, made.rows), *made.notes])


def as_json(made: Table, seconds: dict[str, float]) -> dict[str, Any]:
    """A table with what it was made on."""
    return {
        "title": made.title,
        "about": about_this(),
        **{name: round(value, 1) for name, value in seconds.items()},
        "header": made.header,
        "rows": made.rows,
        "notes": made.notes,
    }


def _experiment(name: str, bench: Bench, folder: Path) -> str:
    made = importlib.import_module(f"tests.bench.experiments.{name}").run(bench, None)
    files = made.write(folder)
    return "\n".join([made.title, table(made.header, made.rows), *made.notes, *map(str, files)])
