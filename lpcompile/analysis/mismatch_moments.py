"""Moments of a layer's inputs as they were, x, and as they are once earlier layers are rounded, x^, of the same calls.

What a layer with weights W^ then gives is off by W x - W^ x^, of mean square

    E |W x - W^ x^|^2 = tr(W^ H W^^T) - 2 tr(W C W^^T) + const,    H = E[x^ x^^T],  C = E[x x^^T]

so that W^ can make good for what came before it. [li2025]

Both graphs are run in sessions that end with the layers that are asked for: ONNX Runtime 1.32 runs all of a graph
whatever is fetched of it (`only_execute_path_to_fetches` changed no time), loading a part of it takes milliseconds, and
a session whose weights are not exchanged is up to twice as fast as one where they may be. Where it is known which
layers will change, they also start behind what is settled (`settled_runs`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.grams import SWEEP_BYTES, Progress, memory_parts, readings_of
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.analysis.product_sums import ProductSum, as_float32, summing_bytes
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.analysis.sampled_columns import RowDraw
from lpcompile.analysis.settled_runs import SettledRuns
from lpcompile.errors import PassError
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph

Readings = tuple[InputReading, InputReading]  # in the float graph, in the rounded one


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Second moments of the inputs of a layer in two graphs.

    Attributes:
        matrix: H = E[x^ x^^T], (G, K, K) float32; G = groups of a convolution, else 1.
        cross: C = E[x x^^T], (G, K, K) float32; its rows are inputs of the float graph.
        mean: E[x], (G, K).
        rounded_mean: E[x^], (G, K).
        rows: how many positions were counted.
    """

    matrix: F32
    cross: F32
    mean: F64
    rounded_mean: F64
    rows: int


class Mismatches(dict[str, Mismatch]):
    """Moments by name of layer; layers that read alike share them.

    Attributes:
        left_out: name of layer -> why it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[str, str] = {}


class MismatchSweeps:
    """The float graph beside one that is rounded layer by layer.

    Args:
        graph: the float graph.
        rounded: the same graph with what is rounded so far, for example its activations; a copy of it is changed.
        observe: opens a graph.
        calls: of the model.
        memory_bytes: of the matrices of one sweep.
        most_rows: positions that are counted of a layer; None: as `sampled_columns` has it.
        seed: of their choice.
        layers: those that will be patched, each once, after the moments of all that come before it; only moments of
            such as are not patched yet may be asked for. None: any layer at any time.
    """

    def __init__(
        self,
        graph: LpGraph,
        rounded: LpGraph,
        observe: ObserveGraph,
        calls: Sequence[Feeds],
        *,
        layers: Collection[str] | None = None,
        memory_bytes: int = SWEEP_BYTES,
        most_rows: int | None = None,
        seed: int = 0,
    ) -> None:
        self._graph, self._rounded = graph, rounded.copy()
        self._calls = calls
        self._runs, self._rounded_runs = SettledRuns(observe, calls), SettledRuns(observe, calls)
        self._changing = None if layers is None else set(layers)
        self._memory, self._most_rows, self._seed = memory_bytes, most_rows, seed

    def patch(self, layer: str, rows: F32, bias: NDArray[np.floating] | None = None) -> None:
        """Give a layer of the rounded graph other weights (C_out, K), and a bias (C_out,) unless None."""
        node = self._rounded.node(layer)
        if bias is not None and node.op == "MatMul":
            raise PassError("MatMul has no bias of its own", where=layer)
        if self._changing is not None:
            if layer not in self._changing:
                raise PassError("its weights were settled before", where=layer)
            self._changing.remove(layer)
        self._rounded.set_weights(node, as_weight(node, rows), bias)

    def moments(self, layers: Sequence[str], progress: Progress | None = None) -> Mismatches:
        """Moments of the inputs of layers as the rounded graph is now.

        Args:
            layers: names.
            progress: called with (calls done, total) over all sweeps.

        Raises:
            CalibrationError: an activation is not finite.
        """
        found = Mismatches()
        readings, found.left_out = readings_of(self._graph, layers)
        others, _ = readings_of(self._rounded, list(readings))
        pairs = {name: (reading, others[name]) for name, reading in readings.items()}
        different = list(dict.fromkeys(pairs.values()))
        sizes = [2 * summing_bytes(r.groups, r.inputs) for r, _ in different]
        parts = memory_parts(different, sizes, self._memory)
        for done, part in enumerate(parts):
            sums = self._sweep(part, done * len(self._calls), len(parts) * len(self._calls), progress)
            for name in (n for n, p in pairs.items() if p in sums):
                result = sums[pairs[name]]
                if isinstance(result, str):
                    found.left_out[name] = result
                else:
                    found[name] = result
        return found

    def _sweep(
        self, part: Sequence[Readings], done: int, total: int, progress: Progress | None
    ) -> Mapping[Readings, Mismatch | str]:
        sums = {pair: _MismatchSum(pair, len(self._calls), self._most_rows) for pair in part}
        tensors, others = ([*dict.fromkeys(r.tensor for r in side)] for side in zip(*part, strict=True))
        runs = self._runs.run(self._graph, tensors, self._changing)
        rounded_runs = self._rounded_runs.run(self._rounded, others, self._changing)
        for i, (values, rounded) in enumerate(zip(runs, rounded_runs, strict=True)):
            for (a, b), s in sums.items():
                s.add(values[a.tensor], rounded[b.tensor], np.random.default_rng([self._seed, i]))
            if progress is not None:
                progress(done + i + 1, total)
        return {pair: s.result() for pair, s in sums.items()}


class _MismatchSum:
    """Moments of one pair of readings while calls come in; the positions are those that `gather_grams` counts."""

    def __init__(self, readings: Readings, calls: int, most_rows: int | None) -> None:
        self._readings = readings
        a, b = readings
        shape = (a.groups, a.inputs)
        self._draw = RowDraw(calls, a.inputs, most_rows)
        self._own, self._cross = ProductSum(*shape, b.tensor), ProductSum(*shape, a.tensor)
        self._mean, self._rounded_mean = np.zeros(shape), np.zeros(shape)
        self._reason = ""

    def add(self, x: NDArray[np.generic], rounded: NDArray[np.generic], rng: np.random.Generator) -> None:
        """Count one call."""
        if x.shape != rounded.shape:
            self._reason = "its input has another shape once earlier layers are rounded"
        a, b = self._readings
        at, weight = self._draw.next(a.positions(x.shape), rng)
        if not len(at) or self._reason:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # the products will tell
            columns, others = a.columns(x, at), b.columns(rounded, at)
            self._mean += weight * columns.sum(-1, dtype=np.float64)
            self._rounded_mean += weight * others.sum(-1, dtype=np.float64)
        self._own.add(others, others, weight)
        self._cross.add(columns, others, weight)

    def result(self) -> Mismatch | str:
        """The moments, or why there are none."""
        count = self._draw.positions
        if self._reason or not count:
            return self._reason or "its input is empty in all samples"
        return Mismatch(
            as_float32(self._own.total() / count),
            as_float32(self._cross.total() / count),
            self._mean / count,
            self._rounded_mean / count,
            self._draw.counted,
        )
