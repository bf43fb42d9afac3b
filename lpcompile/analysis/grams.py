"""Gram matrices of the inputs of layers: H = E[x x^T] over the positions of all calls, streamed.

Rounding errors E (C_out, K) of a layer's weights cost tr(E H E^T) of mean squared error of its outputs, so H is all
that rounding with regard to the outputs of one layer needs. [frantar2022, sec. 3; nagel2020, sec. 3.2]

Of layers with very many positions a sample is counted: MOST_ROWS or ROWS_PER_INPUT * K of them, whichever is more, an
even share from each call; each stands for as many as its call has more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading, Positions, input_reading, sampled_positions
from lpcompile.analysis.product_sums import BYTES_OF_ELEMENT, ProductSum
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph

MOST_ROWS = 16384
ROWS_PER_INPUT = 8
MOST_BYTES = 1 << 30  # of one layer's matrices while they are summed; some 7000 inputs
SWEEP_BYTES = 1 << 29
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Gram:
    """Second moments of the inputs of a layer.

    Attributes:
        matrix: E[x x^T], (G, K, K) float32; G = groups of a convolution, else 1.
        mean: E[x], (G, K).
        rows: how many positions were counted.
    """

    matrix: F32
    mean: F64
    rows: int


class Grams(dict[str, Gram]):
    """Matrices by name of layer; layers that read alike share one.

    Attributes:
        left_out: name of layer -> why it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[str, str] = {}


def gather_grams(
    graph: LpGraph,
    layers: Sequence[str],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    *,
    memory_bytes: int = SWEEP_BYTES,
    most_rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Grams:
    """Gram matrices of layers, all at once; see `gram_sweeps` for the arguments and errors."""
    found = Grams()
    for part in gram_sweeps(
        graph,
        layers,
        observe,
        calls,
        memory_bytes=memory_bytes,
        most_rows=most_rows,
        seed=seed,
        progress=progress,
    ):
        found.update(part)
        found.left_out.update(part.left_out)
    return found


def gram_sweeps(
    graph: LpGraph,
    layers: Sequence[str],
    observe: ObserveGraph,
    calls: Sequence[Feeds],
    *,
    memory_bytes: int = SWEEP_BYTES,
    most_rows: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Iterator[Grams]:
    """Gram matrices of layers, as many at a time as fit; one sweep over the calls for each part.

    Args:
        graph: the float graph.
        layers: names of nodes.
        observe: opens the graph.
        calls: of the model.
        memory_bytes: of the matrices of one sweep; a larger one has a sweep of its own.
        most_rows: positions that are counted of a layer; None: MOST_ROWS or ROWS_PER_INPUT * K.
        seed: of their choice.
        progress: called with (calls done, total) over all sweeps.

    Raises:
        CalibrationError: an activation is not finite.
    """
    readings, left_out = readings_of(graph, layers)
    parts = _sweeps(list(dict.fromkeys(readings.values())), memory_bytes)
    if not parts:
        found = Grams()
        found.left_out = left_out
        yield found
    for done, part in enumerate(parts):
        sums = [GramSum(r, len(calls), most_rows) for r in part]
        run = observe(graph, list(dict.fromkeys(r.tensor for r in part)))
        for i, feeds in enumerate(calls):
            values = run(feeds)
            for s in sums:
                s.add(values[s.reading.tensor], np.random.default_rng([seed, i]))
            if progress is not None:
                progress(done * len(calls) + i + 1, len(parts) * len(calls))
        found = Grams()
        found.left_out, left_out = left_out, {}
        grams = {s.reading: s.result() for s in sums}
        for name in (n for n, r in readings.items() if r in grams):
            gram = grams[readings[name]]
            if gram is None:
                found.left_out[name] = "its input is empty in all samples"
            else:
                found[name] = gram
        yield found


def readings_of(graph: LpGraph, layers: Sequence[str]) -> tuple[dict[str, InputReading], dict[str, str]]:
    """How layers read their inputs, by name; and why others have no matrix."""
    readings, left_out = {}, {}
    for name in layers:
        reading = input_reading(graph.node(name))
        if isinstance(reading, InputReading) and summing_bytes(reading) > MOST_BYTES:
            reading = f"a matrix of its {reading.inputs} inputs is too large"
        if isinstance(reading, str):
            left_out[name] = reading
        else:
            readings[name] = reading
    return readings, left_out


def summing_bytes(reading: InputReading) -> int:
    """Memory of a layer's matrix while it is summed."""
    return BYTES_OF_ELEMENT * reading.groups * reading.inputs**2


def _sweeps(readings: Sequence[InputReading], memory_bytes: int) -> list[list[InputReading]]:
    parts: list[list[InputReading]] = []
    room = 0
    for reading in readings:
        size = summing_bytes(reading)
        if not parts or size > room:
            parts.append([])
            room = memory_bytes
        parts[-1].append(reading)
        room -= size
    return parts


class GramSum:
    """The matrix of one reading while calls come in.

    Args:
        reading: of a layer.
        calls: how many will come.
        most_rows: as of `gram_sweeps`.

    Attributes:
        reading: of a layer.
    """

    def __init__(self, reading: InputReading, calls: int, most_rows: int | None = None) -> None:
        self.reading = reading
        self._draw = RowDraw(calls, reading.inputs, most_rows)
        self._products = ProductSum(reading.groups, reading.inputs, reading.tensor)
        self._sum = np.zeros((reading.groups, reading.inputs))

    def add(self, x: NDArray[np.generic], rng: np.random.Generator) -> None:
        """Count one call.

        Raises:
            CalibrationError: x is not finite.
        """
        at, weight = self._draw.next(self.reading.positions(x.shape), rng)
        if len(at):
            columns = self.reading.columns(x, at)
            columns = weighted(columns, weight)
            self._sum += np.sqrt(weight) * columns.sum(-1, dtype=np.float64)
            self._products.add(columns, columns)

    def result(self) -> Gram | None:
        """The matrix; None where no call had a position."""
        count = self._draw.positions
        if not count:
            return None
        return Gram(as_float32(self._products.total() / count), self._sum / count, self._draw.counted)


def weighted(columns: F32, weight: float) -> F32:
    """Columns whose products count `weight` times."""
    return columns if weight == 1 else columns * np.float32(np.sqrt(weight))


def as_float32(matrix: F64) -> F32:
    """Moments in float32, those beyond its range at its end."""
    largest = np.finfo(np.float32).max
    return np.clip(matrix, -largest, largest).astype(np.float32)


class RowDraw:
    """Which positions of each call are counted, and for how many each of them stands.

    Args:
        calls: how many will come.
        inputs: K.
        most_rows: over all calls; None: MOST_ROWS or ROWS_PER_INPUT * K. A call has one at least.

    Attributes:
        counted: positions chosen so far.
        positions: those that there were.
    """

    def __init__(self, calls: int, inputs: int, most_rows: int | None = None) -> None:
        self._most = max(MOST_ROWS, ROWS_PER_INPUT * inputs) if most_rows is None else most_rows
        self._left = calls
        self.counted = self.positions = 0

    def next(self, positions: int, rng: np.random.Generator) -> tuple[Positions, float]:
        """Positions of the next call, and the weight of each."""
        at = sampled_positions(positions, max(1, -(-(self._most - self.counted) // max(1, self._left))), rng)
        self._left -= 1
        self.counted += len(at)
        self.positions += positions
        return at, positions / max(1, len(at))
