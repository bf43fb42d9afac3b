"""Moments of a layer's inputs as they were, x, and as they are once earlier layers are rounded, x^, of the same calls.

What a layer with weights W^ then gives is off by W x - W^ x^, of mean square

    E |W x - W^ x^|^2 = tr(W^ H W^^T) - 2 tr(W C W^^T) + const,    H = E[x^ x^^T],  C = E[x x^^T]

so that W^ can make good for what came before it. [li2025]

Both graphs are run in sessions that end with the layers that are asked for: ONNX Runtime 1.32 runs all of a graph
whatever is fetched of it (`only_execute_path_to_fetches` changed no time), loading a part of it takes milliseconds, and
a session whose weights are not exchanged is up to twice as fast as one where they may be. Where it is known which
layers will change, they also start behind what is settled (`settled_runs`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.grams import SWEEP_BYTES, Progress, memory_parts, readings_of
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.analysis.product_sums import ProductSum, as_float32, summing_bytes
from lpcompile.analysis.remembered_runs import RememberedRuns
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.analysis.sampled_columns import RowDraw
from lpcompile.analysis.settled_runs import SettledRuns
from lpcompile.errors import PassError
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph

Readings = tuple[InputReading, InputReading]  # in the float graph, in the rounded one
EachPart = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]  # as `map`


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
        memory_bytes: of the matrices of one sweep of a part.
        most_rows: positions that are counted of a layer in a part; None: as `sampled_columns` has it.
        seed: of their choice.
        parts: of the calls, every n-th one each, whose moments are told apart.
        float_runs: of the float graph on these parts, where several sweeps share them.
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
        parts: int = 1,
        float_runs: RememberedRuns | None = None,
        layers: Collection[str] | None = None,
        memory_bytes: int = SWEEP_BYTES,
        most_rows: int | None = None,
        seed: int = 0,
    ) -> None:
        self._graph, self._rounded = graph, rounded.copy()
        self._parts = in_parts(calls, parts)
        self._runs = float_runs or SettledRuns(observe, self._parts)
        self._rounded_runs = SettledRuns(observe, self._parts)
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
        """Moments of the inputs of layers as the rounded graph is now, on the first part of the calls.

        Args:
            layers: names.
            progress: called with (calls done, total) over all sweeps.

        Raises:
            CalibrationError: an activation is not finite.
        """
        return self.by_parts(layers, progress=progress)[0]

    def by_parts(
        self, layers: Sequence[str], each: EachPart = map, progress: Progress | None = None
    ) -> list[Mismatches]:
        """The same for every part of the calls.

        Args:
            layers: names.
            each: calls a function for each part, perhaps at the same time.
            progress: called with (calls of a part done, total) over all sweeps.

        Raises:
            CalibrationError: an activation is not finite.
        """
        found = [Mismatches() for _ in self._parts]
        readings, left_out = readings_of(self._graph, layers)
        others, _ = readings_of(self._rounded, list(readings))
        pairs = {name: (reading, others[name]) for name, reading in readings.items()}
        different = list(dict.fromkeys(pairs.values()))
        sizes = [2 * summing_bytes(r.groups, r.inputs) for r, _ in different]
        sweeps = memory_parts(different, sizes, self._memory)
        for of_part in found:
            of_part.left_out |= left_out
        for done, sweep in enumerate(sweeps):
            for of_part, sums in zip(
                found, self._sweep(sweep, each, (done, len(sweeps)), progress), strict=True
            ):
                for name in (n for n, p in pairs.items() if p in sums):
                    result = sums[pairs[name]]
                    if isinstance(result, str):
                        of_part.left_out[name] = result
                    else:
                        of_part[name] = result
        return found

    def _sweep(
        self,
        pairs: Sequence[Readings],
        each: EachPart,
        place: tuple[int, int],
        progress: Progress | None,
    ) -> list[Mapping[Readings, Mismatch | str]]:
        tensors, others = ([*dict.fromkeys(r.tensor for r in side)] for side in zip(*pairs, strict=True))
        runs = self._runs.run(self._graph, tensors, self._changing)
        rounded_runs = self._rounded_runs.run(self._rounded, others, self._changing)

        def of_part(part: int) -> Mapping[Readings, Mismatch | str]:
            calls = len(self._parts[part])
            sums = {pair: _MismatchSum(pair, calls, self._most_rows) for pair in pairs}
            for i, (values, rounded) in enumerate(zip(runs[part], rounded_runs[part], strict=True)):
                for (a, b), s in sums.items():
                    s.add(values[a.tensor], rounded[b.tensor], np.random.default_rng([self._seed, i]))
                if progress is not None:
                    progress(place[0] * calls + i + 1, place[1] * calls)
            return {pair: s.result() for pair, s in sums.items()}

        return list(each(of_part, range(len(self._parts))))


def in_parts(calls: Sequence[Feeds], parts: int) -> list[Sequence[Feeds]]:
    """Every n-th call each."""
    return [calls[i::parts] for i in range(parts)]


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
