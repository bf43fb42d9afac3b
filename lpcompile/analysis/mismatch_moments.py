"""Moments of a layer's inputs as they were, x, and as they are once earlier layers are rounded, x^, of the same calls.

What a layer with weights W^ then gives is off by W x - W^ x^, of mean square

    E |W x - W^ x^|^2 = tr(W^ H W^^T) - 2 tr(D W^^T) + const,    H = E[x^ x^^T],  D = E[(W x) x^^T]

so that W^ can make good for what came before it. [li2025]

Both graphs are run in sessions that end with the layers that are asked for: ONNX Runtime 1.32 runs all of a graph
whatever is fetched of it (`only_execute_path_to_fetches` changed no time), loading a part of it takes milliseconds, and
a session whose weights are not exchanged is up to twice as fast as one where they may be. Where it is known which
layers will change, they also start behind what is settled (`settled_runs`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.float_products import FloatProducts, float_products
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
    """Second moments of a layer in two graphs.

    Attributes:
        matrix: H = E[x^ x^^T], (G, K, K) float32; G = groups of a convolution, else 1.
        cross: D = E[(W x) x^^T], (C_out, K) float32; W x is what the layer's products give in the float graph.
        mean: E[W x], (C_out,).
        rounded_mean: E[x^], (G, K).
        rows: how many positions were counted.
    """

    matrix: F32
    cross: F32
    mean: F64
    rounded_mean: F64
    rows: int


class Mismatches(dict[str, Mismatch]):
    """Moments by name of layer; layers that read alike share H.

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
        alike, left_out = self._alike(layers)
        sweeps = memory_parts(alike, [a.bytes() for a in alike], self._memory)
        of_layers: list[dict[str, Mismatch | str]] = [{} for _ in self._parts]
        for done, sweep in enumerate(sweeps):
            swept = self._sweep(sweep, each, (done, len(sweeps)), progress)
            for known, more in zip(of_layers, swept, strict=True):
                known |= more
        for of_part, known in zip(found, of_layers, strict=True):
            of_part.left_out |= left_out
            for name in (n for n in layers if n in known):
                result = known[name]
                if isinstance(result, str):
                    of_part.left_out[name] = result
                else:
                    of_part[name] = result
        return found

    def _alike(self, layers: Sequence[str]) -> tuple[list["_Alike"], dict[str, str]]:
        """Layers by how they read, and why others have no moments."""
        readings, left_out = readings_of(self._graph, layers)
        others, _ = readings_of(self._rounded, list(readings))
        names: dict[Readings, list[str]] = {}
        for name, reading in readings.items():
            names.setdefault((reading, others[name]), []).append(name)
        found = [
            _Alike(tuple(of_pair), float_products(self._graph, pair[0], of_pair), pair[1])
            for pair, of_pair in names.items()
        ]
        return found, left_out

    def _sweep(
        self, alike: Sequence["_Alike"], each: EachPart, place: tuple[int, int], progress: Progress | None
    ) -> list[dict[str, Mismatch | str]]:
        tensors = list(dict.fromkeys(t for a in alike for t in a.products.tensors))
        others = list(dict.fromkeys(a.rounded.tensor for a in alike))
        # The float graph never changes, and no one asks for these layers of it again.
        later = None if self._changing is None else self._changing - {n for a in alike for n in a.layers}
        runs = self._runs.run(self._graph, tensors, later)
        rounded_runs = self._rounded_runs.run(self._rounded, others, self._changing)

        def of_part(part: int) -> dict[str, Mismatch | str]:
            calls = len(self._parts[part])
            sums = [_MismatchSum(a, calls, self._most_rows) for a in alike]
            for i, (values, rounded) in enumerate(zip(runs[part], rounded_runs[part], strict=True)):
                for s in sums:
                    s.add(values, rounded, np.random.default_rng([self._seed, i]))
                if progress is not None:
                    progress(place[0] * calls + i + 1, place[1] * calls)
            return {name: found for s in sums for name, found in s.result().items()}

        return list(each(of_part, range(len(self._parts))))


def in_parts(calls: Sequence[Feeds], parts: int) -> list[Sequence[Feeds]]:
    """Every n-th call each."""
    return [calls[i::parts] for i in range(parts)]


@dataclass(frozen=True, slots=True)
class _Alike:
    """Layers that read one tensor alike: their products in the float graph, their input in the rounded one."""

    layers: tuple[str, ...]
    products: FloatProducts
    rounded: InputReading

    def bytes(self) -> int:
        """Memory of their sums."""
        groups, inputs = self.rounded.groups, self.rounded.inputs
        return summing_bytes(groups, inputs) + summing_bytes(groups, inputs, self.products.rows)


class _MismatchSum:
    """Moments of layers that read alike while calls come in; the positions are those that `gather_grams` counts."""

    def __init__(self, alike: _Alike, calls: int, most_rows: int | None) -> None:
        self._alike, reading = alike, alike.rounded
        groups, inputs, rows = reading.groups, reading.inputs, alike.products.rows
        self._draw = RowDraw(calls, inputs, most_rows)
        self._own = ProductSum(groups, inputs, reading.tensor)
        self._cross = ProductSum(groups, inputs, ", ".join(alike.products.tensors), rows)
        self._mean, self._rounded_mean = np.zeros((groups, rows)), np.zeros((groups, inputs))
        self._reason = ""

    def add(self, values: Feeds, rounded: Feeds, rng: np.random.Generator) -> None:
        """Count one call."""
        products, reading = self._alike.products, self._alike.rounded
        x = rounded[reading.tensor]
        spans = reading.spans(x.shape)
        if products.spans(values) != spans:
            self._reason = "its input has another shape once earlier layers are rounded"
        at, weight = self._draw.next(prod(spans), rng)
        if not len(at) or self._reason:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # the products will tell
            columns, others = products.columns(values, at), reading.columns(x, at)
            self._mean += weight * columns.sum(-1, dtype=np.float64)
            self._rounded_mean += weight * others.sum(-1, dtype=np.float64)
        self._own.add(others, others, weight)
        self._cross.add(columns, others, weight)

    def result(self) -> dict[str, Mismatch | str]:
        """The moments of each layer, or why there are none."""
        count = self._draw.positions
        if self._reason or not count:
            return dict.fromkeys(self._alike.layers, self._reason or "its input is empty in all samples")
        matrix, means = as_float32(self._own.total() / count), self._rounded_mean / count
        found = self._alike.products.of_layers(self._cross.total() / count, self._mean / count, means)
        counted = self._draw.counted
        return {n: Mismatch(matrix, as_float32(d), mean, means, counted) for n, (d, mean) in found.items()}
