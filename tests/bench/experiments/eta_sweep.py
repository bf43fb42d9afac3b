"""How much of a network should be posits: the share eta from 0 to 30 %, with random layers of equal share as control.

`mixed` is what assign-formats chooses (measured), `predicted` the knapsack by predicted loss alone. `random share`
turns random layers into posits up to the share of weights that `mixed` took, `random eta` up to eta itself. Controls
are means over seeds with the standard error of the mean. [azizi2023]
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lpcompile.assignment.scored import ScoredLayer
from tests.bench.bench_table import Bench
from tests.bench.experiments.assignments import Assigned, Network
from tests.bench.experiments.chart import Series
from tests.bench.experiments.mixed_posit import ACTIVATIONS, NONE
from tests.bench.experiments.results import Cell, Results

ENTRIES = (
    "tiny_resnet8_cifar10",
    "resnet20_cifar10",
    "tiny_dscnn_kws",
    "mnist_cnn",
    "char_gpt_shakespeare",
    "squeezenet_imagenet",
    "mobilenetv2_imagenet",
)
ETAS = (0.0, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3)
SAMPLES = {"squeezenet_imagenet": 16, "mobilenetv2_imagenet": 16, "char_gpt_shakespeare": 16}
MOST = 300  # evaluation samples of the others
SEEDS = 5
HEADER = (
    "entry",
    "activation bits",
    "eta %",
    "assignment",
    "seeds",
    "posit layers",
    "posit share of weights %",
    "posit share of MACs %",
    "MAC energy overhead %",
    "score",
    "score standard error",
    "SQNR dB",
    "SQNR standard error",
    "SQNR gain dB",
)
CONTROLS = ("random share", "random eta")
Row = tuple[Cell, ...]
Point = tuple[float, float, float, float, float, float]  # from "posit layers" on, without the errors


def run(bench: Bench, seeds: int | None) -> Results:
    """Every entry at both widths."""
    count = seeds or (2 if bench.quick else SEEDS)
    entries = bench.names(ENTRIES, ENTRIES[2:3])
    return finished([r for e in entries for r in entry_rows(bench, e, count)], count)


def entry_rows(bench: Bench, entry: str, seeds: int) -> Iterator[Row]:
    """One entry at both widths."""
    limit = 64 if bench.quick else SAMPLES.get(entry, MOST)
    for activation, bits in ACTIVATIONS.items():
        yield from _rows(Network(bench, entry, activation), bits, limit, seeds)


def finished(rows: list[Row], seeds: int) -> Results:
    """Rows with their summary and charts."""
    title = "Share of posit weights, 0 to 30 %: score, SQNR and MAC energy; random layers as control"
    made = Results("eta_sweep", title, HEADER, rows, tuple(range(seeds)))
    fewer = [f"{k} {v}" for k, v in SAMPLES.items() if any(r[0] == k for r in rows)]
    made.notes += [
        f"first {MOST} evaluation samples at the most; {', '.join(fewer)}",
        "score: the entry's own metric (char_gpt_shakespeare: perplexity, lower is better)",
        "seeds are those of the controls; mixed and predicted are one assignment each",
        *_summary(made),
    ]
    _charts(made)
    return made


class _Sweep:
    """A network whose assignments are measured once each."""

    def __init__(self, network: Network, limit: int) -> None:
        self.network, self.limit = network, limit
        self.layers = network.scored().layers
        self.seen: dict[frozenset[str], Point] = {}

    def chosen(self, options: Mapping[str, Any]) -> Point:
        """What assign-formats takes."""
        return self._measured(self.network.assigned(options))

    def random(self, share: float, seed: int) -> Point:
        """Layers in random order, each a posit if it still fits into the share of the weights."""
        left = share * sum(layer.weights for layer in self.layers) * (1 + 1e-9)
        posits = set()
        for i in np.random.default_rng(seed).permutation(len(self.layers)):
            if self.layers[i].weights <= left:
                left -= self.layers[i].weights
                posits.add(self.layers[i].name)
        if frozenset(posits) in self.seen:
            return self.seen[frozenset(posits)]
        picks = {x.name: _index(x, "posit4" if x.name in posits else "fixp4") for x in self.layers}
        return self._measured(self.network.picked(self.layers, picks))

    def _measured(self, made: Assigned) -> Point:
        key = frozenset(n for n, x in made.graph.plan.layers.items() if x.weight.format == "posit4")
        if key not in self.seen:
            found, share = self.network.figures(made.proto, self.limit), made.share
            self.seen[key] = (
                len(key),
                100 * share.of_parameters,
                100 * share.of_macs,
                100 * (share.energy_overhead or 0.0),
                found.score,
                found.sqnr_db,
            )
        return self.seen[key]


def _rows(network: Network, bits: int, limit: int, seeds: int) -> Iterator[Row]:
    sweep = _Sweep(network, limit)
    zero = sweep.chosen({"posit-fraction": NONE})[-1]

    def row(eta: float, name: str, several: Sequence[Point]) -> Row:
        n = len(several)
        *shares, score, db = np.mean(several, axis=0).tolist()
        errors = np.std(several, axis=0, ddof=1) / math.sqrt(n) if n > 1 else [None] * 6
        return (network.entry, bits, 100 * eta, name, n, *shares, score, errors[4], db, errors[5], db - zero)

    for eta in ETAS:
        bound = {"posit-fraction": max(eta, NONE)}
        mixed = sweep.chosen(bound)
        yield row(eta, "mixed", [mixed])
        yield row(eta, "predicted", [sweep.chosen({**bound, "joint": 0})])
        for name, share in zip(CONTROLS, (mixed[1] / 100, eta), strict=True):
            yield row(eta, name, [sweep.random(share, seed) for seed in range(seeds)])


def _index(layer: ScoredLayer, fmt: str) -> int:
    found = [i for i, c in enumerate(layer.candidates) if c.weight.format == fmt]
    return min(found, key=lambda i: layer.candidates[i].loss)


def _mean_gain(made: Results, bits: int, eta: float, name: str) -> tuple[float, float]:
    """SQNR gain over all-fixp4: mean over entries and its standard error."""
    at = {h: i for i, h in enumerate(HEADER)}
    found = np.array(
        [
            float(r[at["SQNR gain dB"]] or 0.0)
            for r in made.rows
            if (r[at["activation bits"]], r[at["eta %"]], r[at["assignment"]]) == (bits, 100 * eta, name)
        ]
    )
    error = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return float(found.mean()), float(error)


def _summary(made: Results) -> Iterator[str]:
    for bits in ACTIVATIONS.values():
        for eta in ETAS[1:]:
            parts = []
            for name in ("mixed", "predicted", *CONTROLS):
                mean, error = _mean_gain(made, bits, eta, name)
                parts.append(f"{name} {mean:+.2f} +- {error:.2f}")
            yield f"W4A{bits}, eta {100 * eta:g} %: SQNR gain dB, mean over entries: {', '.join(parts)}"


def _charts(made: Results) -> None:
    for bits in ACTIVATIONS.values():
        series = []
        for name in ("mixed", "predicted", *CONTROLS):
            points = [_mean_gain(made, bits, eta, name) for eta in ETAS]
            y, error = zip(*points, strict=True)
            series.append(Series(name, [100 * e for e in ETAS], y, error))
        made.chart(
            series,
            x="eta, % of the weights",
            y="output SQNR gain over all-fixp4, dB",
            suffix="" if bits == 8 else f"w4a{bits}",
            title=f"Share of posits, W4A{bits}: mean over entries, bars: standard error over them",
        )
        made.chart(
            list(_by_energy(made.rows, bits)),
            x="MAC energy overhead, %",
            y="score gain over all-fixp4, % of its score",
            suffix=f"energy-w4a{bits}",
            title=f"Accuracy for energy, W4A{bits}, mixed, eta 0 to 30 %",
        )


def _by_energy(rows: Sequence[Row], bits: int) -> Iterator[Series]:
    at: Mapping[str, int] = {h: i for i, h in enumerate(HEADER)}
    for entry in dict.fromkeys(r[0] for r in rows):
        own = [
            r for r in rows if (r[0], r[at["activation bits"]], r[at["assignment"]]) == (entry, bits, "mixed")
        ]
        points = sorted((float(r[at["MAC energy overhead %"]] or 0), float(r[at["score"]] or 0)) for r in own)
        base = next(float(r[at["score"]] or 0) for r in own if r[at["eta %"]] == 0)
        sign = -1 if entry == "char_gpt_shakespeare" else 1
        yield Series(str(entry), [e for e, _ in points], [100 * sign * (s - base) / base for _, s in points])
