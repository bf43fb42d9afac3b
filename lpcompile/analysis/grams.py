"""Gram matrices of the inputs of layers: H = E[x x^T] over the positions of all calls, streamed.

Rounding errors E (C_out, K) of a layer's weights cost tr(E H E^T) of mean squared error of its outputs, so H is all
that rounding with regard to the outputs of one layer needs. [frantar2023, sec. 3; nagel2020]

Of layers with very many positions a sample is counted (`sampled_columns`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading, input_reading
from lpcompile.analysis.product_sums import ProductSum, as_float32, summing_bytes
from lpcompile.analysis.sampled_columns import Positions, RowDraw
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph

MOST_BYTES = 1 << 30  # of one layer's matrix while it is summed; some 9000 inputs
SWEEP_BYTES = 1 << 29
THREADS = 2
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gram:
    """Second moments of the inputs of a layer.

    Attributes:
        matrix: E[x x^T], (G, K, K) float32; G = groups of a convolution, else 1.
        mean: E[x], (G, K).
        rows: how many positions were counted.
        halves: the same of every other call, so that what is chosen on one half can be judged on the other; empty where
            there is one call.
    """

    matrix: F32
    mean: F64
    rows: int
    halves: tuple["Gram", ...] = ()


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
    """Gram matrices of layers; one sweep over the calls for as many as fit into memory at a time.

    Args:
        graph: the float graph.
        layers: names of nodes.
        observe: opens the graph.
        calls: of the model.
        memory_bytes: of the matrices of one sweep; a larger one has a sweep of its own.
        most_rows: positions that are counted of a layer; None: as `sampled_columns` has it.
        seed: of their choice.
        progress: called with (calls done, total) over all sweeps.

    Raises:
        CalibrationError: an activation is not finite.
    """
    found = Grams()
    readings, found.left_out = readings_of(graph, layers)
    different = list(dict.fromkeys(readings.values()))
    sizes = [summing_bytes(r.groups, r.inputs) for r in different]
    parts = memory_parts(different, sizes, memory_bytes)
    for done, part in enumerate(parts):
        sums = [GramSum(r, len(calls), most_rows) for r in part]
        run = observe(graph, list(dict.fromkeys(r.tensor for r in part)))
        # Readings are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            for i, feeds in enumerate(calls):
                values = run(feeds)
                counted = partial(_count, values, (seed, i))
                list(pool.map(counted, sums))
                if progress is not None:
                    progress(done * len(calls) + i + 1, len(parts) * len(calls))
        grams = dict[InputReading, Gram | None]()
        while sums:  # each goes as soon as its result is there
            finished = sums.pop()
            grams[finished.reading] = finished.result()
        for name in (n for n, r in readings.items() if r in grams):
            gram = grams[readings[name]]
            if gram is None:
                found.left_out[name] = "its input is empty in all samples"
            else:
                found[name] = gram
    return found


def _count(values: Feeds, seed: tuple[int, int], found: "GramSum") -> None:
    found.add(values[found.reading.tensor], np.random.default_rng(seed))


def readings_of(graph: LpGraph, layers: Sequence[str]) -> tuple[dict[str, InputReading], dict[str, str]]:
    """How layers read their inputs, by name; and why others have no matrix."""
    readings, left_out = {}, {}
    for name in layers:
        reading = input_reading(graph.node(name))
        if isinstance(reading, InputReading) and summing_bytes(reading.groups, reading.inputs) > MOST_BYTES:
            reading = f"a matrix of its {reading.inputs} inputs is too large"
        if isinstance(reading, str):
            left_out[name] = reading
        else:
            readings[name] = reading
    return readings, left_out


def memory_parts(items: Sequence[T], sizes: Sequence[int], most: int) -> list[list[T]]:
    """Items in their order, in parts whose sizes sum to `most` bytes; a larger one is a part of its own."""
    parts: list[list[T]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if not parts or size > room:
            parts.append([])
            room = most
        parts[-1].append(item)
        room -= size
    return parts


class GramSum:
    """The matrix of one reading while calls come in.

    Args:
        reading: of a layer.
        calls: how many will come.
        most_rows: as of `gather_grams`.
        halves: whether every other call is summed apart.

    Attributes:
        reading: of a layer.
    """

    def __init__(
        self, reading: InputReading, calls: int, most_rows: int | None = None, *, halves: bool = True
    ) -> None:
        self.reading = reading
        self._draw = RowDraw(calls, reading.inputs, most_rows)
        self._halves = [_Half(reading) for _ in range(min(1 + halves, calls))]
        self._calls = 0

    def add(self, x: NDArray[np.generic], rng: np.random.Generator) -> None:
        """Count one call.

        Raises:
            CalibrationError: x is not finite.
        """
        positions = self.reading.positions(x.shape)
        at, weight = self._draw.next(positions, rng)
        half = self._halves[self._calls % len(self._halves)]
        self._calls += 1
        if len(at):
            half.add(x, at, weight, positions)

    def result(self) -> Gram | None:
        """The matrix; None where no call had a position."""
        counted = [h for h in self._halves if h.positions]
        if not counted:
            return None
        if len(counted) == 1:
            return counted[0].result()
        first, second = (h.result() for h in counted)
        shares = [h.positions / sum(h.positions for h in counted) for h in counted]
        matrix = first.matrix * np.float32(shares[0]) + second.matrix * np.float32(shares[1])
        mean = first.mean * shares[0] + second.mean * shares[1]
        return Gram(matrix, mean, self._draw.counted, (first, second))


class _Half:
    """Sums over every other call."""

    def __init__(self, reading: InputReading) -> None:
        self._reading = reading
        self._products = ProductSum(reading.groups, reading.inputs, reading.tensor)
        self._sum = np.zeros((reading.groups, reading.inputs))
        self.positions = self._counted = 0

    def add(self, x: NDArray[np.generic], at: Positions, weight: float, positions: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # the products will tell
            columns = self._reading.columns(x, at)
            self._sum += weight * columns.sum(-1, dtype=np.float64)
        self._products.add(columns, columns, weight)
        self.positions += positions
        self._counted += len(at)

    def result(self) -> Gram:
        matrix = as_float32(self._products.total() / self.positions)
        return Gram(matrix, self._sum / self.positions, self._counted)
