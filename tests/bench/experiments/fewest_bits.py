"""The fewest bits a weight that keep a user's own metric: how few, in how many evaluations, and do they hold?

The metric is the zoo's own on one half of the evaluation set (every other sample); the other half judges what was
found. Beside it stand the fixed recipes, measured on the same halves.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import lpcompile
from lpcompile.errors import BudgetError
from tests.bench.bench_table import Bench
from tests.bench.experiments.chart import Series
from tests.bench.experiments.results import Results
from tests.support import Array
from tests.zoo.entries import Zoo, session

BOUNDS = {
    "resnet20_cifar10": (0.005,),
    "minilm_stsb": (0.003, 0.006),
    "mobilenetv2_imagenet": (0.005,),
}
DEFAULT_BOUNDS = (0.005,)
QUICK = ("resnet20_cifar10",)
FIXED = ("int8", "w4a8")
HEADER = (
    "network",
    "metric",
    "recipe",
    "bound on the drop",
    "bits a weight",
    "evaluations",
    "time of compiling, s",
    "float, metric's half",
    "drop, metric's half",
    "float, other half",
    "drop, other half",
    "standard error of it",
    "samples a half",
)


@dataclass(frozen=True)
class Half:
    """One half of an entry's evaluation set.

    Attributes:
        zoo: where it comes from.
        name: of the entry.
        side: 0 or 1.
    """

    zoo: Zoo
    name: str
    side: int

    def __call__(self, loaded: ort.InferenceSession) -> float:
        """The entry's own metric."""
        entry = self.zoo.entries[self.name]
        return float(self.zoo.evaluate.METRICS[entry["metric"]](loaded, entry, self.data))

    @property
    def data(self) -> dict[str, Any]:
        """Every other sample, or pair."""
        whole: Mapping[str, Array] = self.zoo.data(self.name)
        if "ids" not in whole:
            return {k: v[self.side :: 2] for k, v in whole.items()}
        first, second, y = (whole[k][self.side :: 2] for k in ("a", "b", "y"))
        used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        return {"ids": whole["ids"][used], "a": places[: len(y)], "b": places[len(y) :], "y": y}

    @property
    def samples(self) -> int:
        """How many."""
        return len(self.data["y"])

    def classes(self, model: bytes) -> Array:
        """Of top-1 entries, the class of each sample."""
        return np.asarray(self.zoo.evaluate.classes(session(model), self.zoo.entries[self.name], self.data))


def run(bench: Bench, seeds: int | None) -> Results:
    """Each entry by the recipe `auto` under its bound, and by the fixed recipes."""
    assert bench.zoo is not None
    count = seeds or 1
    made = Results(
        "fewest_bits",
        "The fewest bits a weight within a drop of the network's own metric",
        HEADER,
        seeds=tuple(range(count)),
        notes=[
            "The metric sees every other sample of the evaluation set; the other half judges.",
            "Standard errors are of the paired difference, sqrt(lost + won) / n; none for a rank correlation.",
        ],
    )
    lines = []
    for name in bench.names(tuple(BOUNDS), QUICK):
        bounds = BOUNDS.get(name, DEFAULT_BOUNDS)
        for bound, seed in ((b, s) for b in bounds for s in range(count)):
            row, tried, notes = searched(bench.zoo, name, bound, seed)
            made.rows.append(row)
            made.notes += [f"{name}, bound {bound:g}: {note}" for note in notes]
            if tried:
                label = f"{name}, {bound:g}" + (f", seed {seed}" if count > 1 else "")
                lines.append(Series(label, [x for x, _ in tried], [y / bound for _, y in tried]))
        made.rows += [fixed(bench.zoo, name, recipe) for recipe in FIXED]
    made.chart(lines, x="bits a weight", y="drop of the metric over its bound")
    return made


def searched(
    zoo: Zoo, name: str, bound: float, seed: int
) -> tuple[tuple[Any, ...], list[tuple[float, float]], list[str]]:
    """A row, widths and drops of the evaluations, and notes; of a bound out of reach the nearest point."""
    start, half = time.perf_counter(), Half(zoo, name, 0)
    try:
        found = lpcompile.compile(
            zoo.model(name),
            calibration=zoo.samples(name),
            recipe="auto",
            metric=half,
            budget={"metric-drop": bound},
            seed=seed,
        )
    except BudgetError as error:
        seconds, near = time.perf_counter() - start, error.nearest
        cells = (near["avg-bits"], 1, seconds, None, near["metric-drop"], None, None, None, half.samples)
        metric = zoo.entries[name]["metric"]
        return (name, metric, "auto", bound, *cells), [], [f"not met, the nearest point: {error}"]
    seconds = time.perf_counter() - start
    search, measured = found.report["search"], found.report["metric"]
    row = _row(
        zoo,
        name,
        "auto",
        bound,
        found,
        (search["evaluated"], seconds, measured["float"], measured["drop"]),
    )
    return (
        row,
        sorted((e["avg_bits"], e["values"]["metric-drop"]) for e in search["evaluations"]),
        search["notes"],
    )


def fixed(zoo: Zoo, name: str, recipe: str) -> tuple[Any, ...]:
    """A row of a recipe without a bound."""
    start = time.perf_counter()
    found = lpcompile.compile(
        zoo.model(name), calibration=zoo.samples(name), recipe=recipe, metric=Half(zoo, name, 0)
    )
    metric = found.report["metric"]
    cells = (None, time.perf_counter() - start, metric["float"], metric["drop"])
    return _row(zoo, name, recipe, None, found, cells)


def _row(
    zoo: Zoo,
    name: str,
    recipe: str,
    bound: float | None,
    found: lpcompile.Artefacts,
    cells: tuple[Any, ...],
) -> tuple[Any, ...]:
    other = Half(zoo, name, 1)
    before = onnx.load(zoo.model(name)).SerializeToString()
    after = found.model.SerializeToString(deterministic=True)
    reference = other(session(before))
    drop, error = reference - other(session(after)), None
    if zoo.entries[name]["metric"] == "top1":
        right = [other.classes(m) == other.data["y"] for m in (before, after)]
        error = float(np.sqrt((right[0] != right[1]).sum()) / other.samples)
    bits = found.report["totals"]["bits_per_weight"]
    metric = zoo.entries[name]["metric"]
    return (name, metric, recipe, bound, bits, *cells, reference, drop, error, other.samples)
