"""Print the measured tables: `python -m tests.bench [all] [--only NAME] [--zoo DIR] [--networks DIR] [--json FILE]
[--effort N,N] [--quick] [--again] [--out DIR]`.

`all` also runs the experiments, and keeps everything under docs/results: see `everything`. Times are ratios of
interleaved runs on one thread, since machines differ and are shared. This is no test.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime

from lpcompile.report.table import table
from tests.bench.bench_table import SHIPPED, Bench, Table
from tests.bench.catalogue import NEED_ZOO, TABLES
from tests.bench.everything import run_all
from tests.bench.machine import about_this
from tests.zoo.entries import find_zoo


def main(words: list[str] | None = None) -> int:
    """Run the tables asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all",), help="tables and experiments, kept and resumed")
    parser.add_argument("--only", action="append", choices=TABLES, help="one table; may be repeated")
    parser.add_argument("--zoo", help="folder with zoo.json; default LPCOMPILE_ZOO")
    parser.add_argument("--entries", help="zoo entries, separated by commas; default those of each table")
    parser.add_argument(
        "--networks", type=Path, default=SHIPPED, help="folder of the table networks; default models"
    )
    parser.add_argument("--json", type=Path, help="write the tables to a file, too")
    parser.add_argument(
        "--effort", type=efforts, default=(), help="of the compiler, as 1 or 0,1; default those of each"
    )
    parser.add_argument("--quick", action="store_true", help="few entries, samples and rounds")
    parser.add_argument("--again", action="store_true", help="of all: make anew what is there")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results"), help="of all: folder of the results"
    )
    asked = parser.parse_args(words)
    onnxruntime.set_default_logger_severity(4)  # its remarks on other tools' files are not our table
    bench = Bench(find_zoo(asked.zoo), asked.quick, names(asked.entries), asked.effort, asked.networks)
    if asked.what == "all":
        return 1 if run_all(bench, asked.out, again=asked.again) else 0
    about = about_this()
    print(", ".join(f"{k} {v}" for k, v in about.items()), flush=True)
    found: dict[str, Any] = {"about": about}
    for name in asked.only or TABLES:
        if name in NEED_ZOO and bench.zoo is None:
            print(f"\n{name}: left out, --zoo or LPCOMPILE_ZOO must name a folder with a zoo.json")
            continue
        start = time.perf_counter()
        made: Table = importlib.import_module(f"tests.bench.{name}").measure(bench)
        print(f"\n{made.title}\n{table(made.header, made.rows)}")
        print(*made.notes, f"({time.perf_counter() - start:.0f} s)", sep="\n", flush=True)
        found[name] = {"title": made.title, "header": made.header, "rows": made.rows, "notes": made.notes}
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


def names(text: str | None) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(text.split(",")) if text else ()


def efforts(text: str) -> tuple[int, ...]:
    """Numbers between commas."""
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
