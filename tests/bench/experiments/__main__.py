"""Run experiments: `python -m tests.bench.experiments NAME... [--zoo DIR] [--entries A,B] [--seeds N] [--effort N,N]
[--quick]`.

Each prints its table and writes docs/results/NAME.csv and NAME.svg (elsewhere with --out).
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from lpcompile.report.table import table
from tests.bench.__main__ import efforts, names
from tests.bench.bench_table import Bench
from tests.bench.catalogue import EXPERIMENTS
from tests.bench.experiments.results import Results
from tests.zoo.entries import find_zoo


def main(words: list[str] | None = None) -> int:
    """Run the experiments asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.experiments", description=__doc__)
    parser.add_argument("names", nargs="+", choices=EXPERIMENTS, help="which")
    parser.add_argument("--zoo", help="folder with zoo.json; default LPCOMPILE_ZOO")
    parser.add_argument(
        "--entries", help="zoo entries, separated by commas; default those of each experiment"
    )
    parser.add_argument("--seeds", type=int, help="how many; default those of each experiment")
    parser.add_argument(
        "--effort", type=efforts, default=(), help="of the compiler, as 1 or 0,1; default those of each"
    )
    parser.add_argument("--quick", action="store_true", help="few entries, seeds and points; writes nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    asked = parser.parse_args(words)
    zoo = find_zoo(asked.zoo)
    if zoo is None:
        parser.error("--zoo or LPCOMPILE_ZOO must name a folder with a zoo.json")
    bench = Bench(zoo, asked.quick, names(asked.entries), asked.effort)
    for name in asked.names:
        start = time.perf_counter()
        made: Results = importlib.import_module(f"tests.bench.experiments.{name}").run(bench, asked.seeds)
        print(f"\n{made.title}\n{table(made.header, made.rows)}")
        print(*made.notes, f"({time.perf_counter() - start:.0f} s)", sep="\n", flush=True)
        if not asked.quick:
            print(*made.write(asked.out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
