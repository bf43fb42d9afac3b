"""What errors of a layer's weights cost the loss, to second order and exactly per sample: 1/2 E_i <g_i, dW>^2.

g_i is the gradient of sample i, <g_i, dW> = <delta_i, dW x_i>: the change of the loss head's tensors along its random
direction. With the head `kl` that is KL(float || changed) in nats, with `probe` half the noise-to-signal power of the
outputs. Correlations between inputs, which a diagonal of E[g^2] forgets, are all in it. [architecture 5, 6]

A bias that is corrected afterwards takes the mean of the error away: with `centre`, E[x] for each weight of a row, the
gradient is g - db (x) E[x].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Head, Samples, Sweep, check_finite, choose_head
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.analysis.scores import F64, Score
from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.per_sample import add_weight_gradients
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

MEMORY_BYTES = 1 << 30
FEW_CANDIDATES = 2  # so many more runs of a layer cost less than the gradients of its weights
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LayerErrors:
    """Errors W^ - W of M candidates for one layer.

    Attributes:
        rows: the output channels they are given for, (R,); None for all.
        deltas: (M, R, K), rows as in `quant.rows`.
    """

    rows: NDArray[np.intp] | None
    deltas: F32


def score_weight_errors(
    graph: LpGraph,
    errors: Mapping[str, LayerErrors],
    observe: ObserveGraph,
    samples: Samples,
    *,
    loss: str = "auto",
    head: Head | None = None,
    draws: int = 1,
    seed: int = 0,
    centre: Mapping[str, F64] | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, Score]:
    """Score candidates of layers by the exact empirical Fisher form.

    Args:
        graph: the float graph, shapes inferred.
        errors: by layer name.
        observe: opens a graph.
        samples: see `Samples.of`.
        loss: one of `gradients.LOSSES`; `head` wins.
        head: a loss that was chosen before.
        draws: of the loss's random numbers, for each sample.
        seed: of these.
        centre: by layer name E[x_k] of the products of an output, (C_out, K): what bias correction takes away.
        progress: called with (done, total).
        memory_bytes: layers are taken in as many sweeps as keep the gradients and errors of one within it.

    Returns:
        By layer name the mean over samples of 1/2 <g_i, dW_m>^2 for its M candidates, times C_out / R where some rows
        stand for all.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
        CalibrationError: labels that are missing or do not fit.
    """
    head = head or choose_head(graph, loss, observe, samples)
    chunks = list(_chunks(graph, errors, samples, memory_bytes))
    total = len(chunks) * len(samples.calls)
    found: dict[str, Score] = {}
    for number, names in enumerate(chunks):
        chunk = _Chunk(graph, {n: errors[n] for n in names}, head, samples, centre or {})
        step = None if progress is None else partial(_step, progress, number * len(samples.calls), total)
        found |= chunk.scores(observe, draws, seed, step)
    return found


def _step(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _chunks(
    graph: LpGraph, errors: Mapping[str, LayerErrors], samples: Samples, memory_bytes: int
) -> Iterator[list[str]]:
    batch = max((len(next(iter(c.values()))) for c in samples.calls), default=1) if samples.per_sample else 1
    held, room = [], memory_bytes
    for name, e in errors.items():
        rows, columns = e.deltas.shape[1:]
        held_gradients = 0 if _by_products(e) else batch * rows * columns * 4
        need = e.deltas.nbytes + held_gradients
        if held and need > room:
            yield held
            held, room = [], memory_bytes
        held.append(name)
        room -= need
    if held:
        yield held


def _by_products(e: LayerErrors) -> bool:
    return len(e.deltas) <= FEW_CANDIDATES and e.rows is None


class _Chunk:
    """A graph that gives <g_i, dW_m> of some layers."""

    def __init__(
        self,
        graph: LpGraph,
        errors: Mapping[str, LayerErrors],
        head: Head,
        samples: Samples,
        centre: Mapping[str, F64],
    ) -> None:
        self.graph, self.errors, self.samples = graph, errors, samples
        self.centre = centre
        self.made = graph.copy()
        self.loss = head.add_to(self.made)
        self.builder = GradientBuilder(self.made, "score")
        self.extra: dict[str, F32] = {}
        self.products: dict[str, str] = {}  # layer -> tensor (N, M)
        self.biases: dict[str, str] = {}  # layer -> tensor (N, R)
        self._add_products([n for n, e in errors.items() if _by_products(e)])
        self._add_gradients([n for n, e in errors.items() if not _by_products(e)])

    def _add_products(self, layers: Sequence[str]) -> None:
        """<delta_i, dW x_i>: the layer once more on its errors."""
        b = self.builder
        outputs = {n: _output(self.made.node(n)) for n in layers}
        deltas = add_gradients(self.made, self.loss.seeds, [v.name for v in outputs.values()])
        for name, output in outputs.items():
            delta, node = deltas[output.name], self.made.node(name)
            if delta is None:
                continue
            columns = []
            for rows in self.errors[name].deltas:
                weight = self.made.constant(f"{name}/error", as_weight(node, rows))
                attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
                change = b.op(node.op, node.inputs[0], weight, **attrs)
                columns.append(self._dot(b.with_shape(change, output), delta))
            self.products[name] = self._output(
                columns[0] if len(columns) == 1 else b.op("Concat", *columns, axis=1)
            )
            if name in self.centre:
                self.biases[name] = self._output(self._channel_sums(node, delta))

    def _dot(self, a: Value, c: Value) -> Value:
        """(N, 1) inner products of the samples."""
        b = self.builder
        flat = b.reshape(b.mul(a, c), [0 if self.samples.per_sample else 1, -1])
        return b.sum(flat, [1], keepdims=True)

    def _channel_sums(self, node: Node, delta: Value) -> Value:
        """(N, C_out) sums of the delta over positions."""
        b, lead = self.builder, 0 if self.samples.per_sample else 1
        output = _output(node)
        rank = len(output.shape or ())
        if node.op in ("Conv", "ConvTranspose"):
            sums = b.reshape(b.sum(delta, list(range(2, rank))), [0, -1])
            return sums if lead == 0 else b.sum(sums, [0], keepdims=True)
        weight = node.inputs[1]
        assert weight is not None
        return b.sum(b.reshape(delta, [lead, -1, weight.dims[-1]]), [1])

    def _add_gradients(self, layers: Sequence[str]) -> None:
        """Gradients of weights, (N, R, K), times all errors at once."""
        if not layers:
            return
        b = self.builder
        rows = {n: r for n in layers if (r := self.errors[n].rows) is not None}
        gradients = add_weight_gradients(
            self.made,
            self.loss.seeds,
            [self.made.node(n) for n in layers],
            per_sample=self.samples.per_sample,
            rows=rows,
            shown=True,
        )
        lead = 0 if self.samples.per_sample else 1
        for name in layers:
            found = gradients.get(name)
            if found is None:
                continue
            errors = np.ascontiguousarray(self.errors[name].deltas, np.float32)
            count, size = len(errors), errors[0].size
            fed = self.made.add_input(self.made.fresh(f"{name}/errors"), np.dtype(np.float32), (count, size))
            self.extra[fed.name] = errors.reshape(count, size)
            flat = b.reshape(found.weight, [lead, size])
            self.products[name] = self._output(b.op("Gemm", flat, fed, transB=1))
            if name in self.centre:
                self.biases[name] = self._output(b.reshape(found.bias, [lead, errors.shape[1]]))

    def _output(self, value: Value) -> str:
        self.made.set_type(value, np.dtype(np.float32), None)
        return value.name

    def scores(
        self, observe: ObserveGraph, draws: int, seed: int, step: Callable[[int], None] | None
    ) -> dict[str, Score]:
        """One sweep."""
        wanted = [*self.products.values(), *self.biases.values()]
        squares: dict[str, list[list[F64]]] = {n: [] for n in self.products}
        if wanted:
            sweep = Sweep(self.graph, self.made, self.loss, wanted, observe, self.samples, seed)
            at = -1
            for i, values in sweep.runs(draws, self.extra):
                for name, tensor in self.products.items():
                    if i != at:
                        squares[name].append([])
                    squares[name][-1].append(np.square(self._centred(name, values[tensor], values)))
                at = i
                if step is not None:
                    step(i + 1)
        return {n: self._score(n, squares.get(n, [])) for n in self.errors}

    def _centred(
        self, name: str, product: NDArray[np.float32], values: Mapping[str, NDArray[np.float32]]
    ) -> F64:
        check_finite(product, name)
        found = product.astype(np.float64)
        if name not in self.biases:
            return found
        e = self.errors[name]
        mean = self.centre[name] if e.rows is None else self.centre[name][e.rows]
        shift = np.einsum("mrk,rk->mr", e.deltas, mean)
        return np.asarray(found - values[self.biases[name]].astype(np.float64) @ shift.T)

    def _score(self, name: str, squares: Sequence[Sequence[F64]]) -> Score:
        e = self.errors[name]
        count = len(e.deltas)
        if not squares:  # nothing flows back to it: no output depends on it
            return Score(np.zeros(count), np.zeros(count), 0)
        terms = np.concatenate([np.mean(s, axis=0) for s in squares])
        share = 1.0 if e.rows is None else _channels(self.graph.node(name)) / max(1, len(e.rows))
        return Score.of_terms(terms, factor=share / 2)


def _channels(node: Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    return weight.dims[1] if node.op in ("Gemm", "MatMul") else weight.dims[0]


def _output(node: Node) -> Value:
    output = node.outputs[0]
    assert output is not None
    return output
