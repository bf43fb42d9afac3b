"""Formats chosen for every layer against one fixed format with int8 where it pays, at equal counted bits."""

import time
from collections.abc import Mapping
from typing import Any

from lpcompile.errors import BudgetError
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Results

BUDGETS = (4.25, 4.5, 5.0)
FIXED = ("fixp4", "posit4", "nf4", "float4_e2m1fn")
LEARNED = "lut4"  # no single format: every layer learns a table of its own
FORMATS = (*FIXED, LEARNED)
QUICK = ("tiny_dscnn_kws", "resnet20_cifar10")
TOLERANCE_DB = 0.1
SAMPLES = 1000  # of the evaluation set, at most


def run(bench: Bench, seeds: int | None = None) -> Results:
    """SQNR on evaluation samples of `auto`, of each single format and of the paper's greedy rule."""
    del seeds  # one seed: nothing here is drawn but probes
    header = ("entry", "avg_bits", "auto_db", *(f"{f}_db" for f in FORMATS), "paper_greedy_db", "best_single",
              "auto - best_db", "logits_auto - best_db", "auto - lut4_db", "bits_reached", "seconds")  # fmt: skip
    made = Results(
        "format_choice", "output SQNR at equal counted bits: all formats against each single one", header
    )
    better = worse = cases = 0
    gains: dict[float, list[float]] = {b: [] for b in BUDGETS}
    for entry in bench.names(bench.all_names, QUICK):
        start = time.perf_counter()
        rows = _entry(bench, entry)
        for budget, found in rows.items():
            singles = {f: v for f in FIXED if (v := found[f]) is not None}
            if found["auto"] is None or not singles:
                continue
            best = max(singles, key=lambda f: singles[f])
            rivals = [singles[best], *([found["greedy"]] if found["greedy"] is not None else [])]
            gain = found["auto"] - max(rivals)
            gains[budget].append(gain)
            cases, better, worse = cases + 1, better + (gain > 0), worse + (gain < -TOLERANCE_DB)
            logits = [v for k in FIXED if (v := found[f"{k} logits"]) is not None]
            by_logits = found["auto logits"] - max(logits) if logits else None
            learned = None if found[LEARNED] is None else found["auto"] - found[LEARNED]
            shown = (*(found[f] for f in FORMATS), found["greedy"], best, gain, by_logits, learned)
            made.rows.append(
                (entry, budget, found["auto"], *shown, found["bits"], time.perf_counter() - start)
            )
        print(*(r for r in made.rows if r[0] == entry), sep="\n", flush=True)
    made.notes.append(
        f"better than the best single format and the greedy rule in {better} of {cases} cases, "
        f"worse by more than {TOLERANCE_DB} dB in {worse}; up to {SAMPLES} evaluation samples each"
    )
    means = [sum(g) / len(g) if g else 0.0 for g in gains.values()]
    made.chart(
        [Series("mean over entries", BUDGETS, means)],
        x="bits a weight",
        y="auto less the best single format, dB",
    )
    return made


def _entry(bench: Bench, entry: str) -> Mapping[float, Mapping[str, Any]]:
    found: dict[float, dict[str, Any]] = {}
    network = Network(bench, entry, recipe="auto", timed=True)
    network.scored()
    for fmt in FORMATS:
        network.narrow(fmt)
    for budget in BUDGETS:
        row: dict[str, Any] = found.setdefault(budget, {})
        for name, options in _settings().items():
            try:
                assigned = network.assigned({**options, "avg-bits": budget})
            except BudgetError:  # a cell without a figure
                row[name] = row[f"{name} logits"] = None
                continue
            row[name] = network.sqnr_db(assigned.proto, SAMPLES)
            row[f"{name} logits"] = network.logits_db(assigned.proto, SAMPLES)
            if name == "auto":
                row["bits"] = assigned.bits
    return found


def _settings() -> dict[str, dict[str, Any]]:
    return {
        "auto": {},
        **{f: {"formats": f"{f}+int8"} for f in FORMATS},
        "greedy": {"formats": "fixp4+posit4", "method": "paper-greedy", "posit-fraction": 0.1},
    }
