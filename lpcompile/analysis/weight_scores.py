"""What errors of a layer's weights cost the loss, to second order and exactly per sample: 1/2 E_i <g_i, dW>^2.

g_i is the gradient of sample i, <g_i, dW> = <delta_i, dW x_i>: the change of the loss head's tensors along its random
direction. With the head `kl` that is KL(float || changed) in nats, with `probe` half the noise-to-signal power of the
outputs. Correlations between inputs, which a diagonal of E[g^2] forgets, are all in it. [architecture 5, 6]

A bias that is corrected afterwards takes the mean of the error away: with `centre`, E[x] for each weight of a row, the
gradient is g - db (x) E[x].
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.gradients import Head, Samples, choose_head
from lpcompile.analysis.inner_products import Arrays, InnerProducts, layer_output
from lpcompile.analysis.scores import F64, Score
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


class ErrorsOnDemand(Mapping[str, LayerErrors]):
    """Errors that are made when they are asked for, their shapes being known before."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, int, int]:
        """(M, R, K) of a layer."""

    @abstractmethod
    def is_whole(self, name: str) -> bool:
        """Whether they are given for all output channels."""


@dataclass(frozen=True, slots=True)
class Projections:
    """<g_i, dW_m> of the candidates of one layer.

    Attributes:
        terms: (samples, draws, M); no samples where nothing flows back to the layer.
        share: C_out / R where some rows stand for all, else 1.
    """

    terms: F64
    share: float

    @property
    def score(self) -> Score:
        """1/2 the mean of squares, of each candidate alone."""
        if not len(self.terms):
            return Score(np.zeros(self.terms.shape[2]), np.zeros(self.terms.shape[2]), 0)
        return Score.of_terms(np.square(self.terms).mean(axis=1), factor=self.share / 2)


def score_weight_errors(
    graph: LpGraph,
    errors: Mapping[str, LayerErrors],
    observe: ObserveGraph,
    samples: Samples,
    **options: Any,
) -> dict[str, Score]:
    """Score candidates of layers by the exact empirical Fisher form: `project_weight_errors`, squared.

    Returns:
        By layer name the mean over samples of 1/2 <g_i, dW_m>^2 for its M candidates, times C_out / R where some rows
        stand for all.
    """
    return {n: p.score for n, p in project_weight_errors(graph, errors, observe, samples, **options).items()}


def project_weight_errors(
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
) -> dict[str, Projections]:
    """Changes of the loss by candidates of layers, along the gradient of every sample and draw.

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
        By layer name. Those of several layers add up: half the mean square of their sum is what they lose together.

    Raises:
        GradientError: an operator without a rule, named; a gradient that is not finite.
        CalibrationError: labels that are missing or do not fit.
    """
    head = head or choose_head(graph, loss, observe, samples)
    chunks = list(_chunks(graph, errors, samples, memory_bytes))
    total = len(chunks) * len(samples.calls)
    found: dict[str, Projections] = {}
    for number, names in enumerate(chunks):
        products = InnerProducts(graph, head, samples, draws)
        chunk = _Chunk(products, {n: errors[n] for n in names}, centre or {})
        step = None if progress is None else partial(_step, progress, number * len(samples.calls), total)
        found |= chunk.projections(observe, seed, step)
    return found


def _step(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _chunks(
    graph: LpGraph, errors: Mapping[str, LayerErrors], samples: Samples, memory_bytes: int
) -> Iterator[list[str]]:
    batch = max(samples.sizes, default=1)
    held: list[str] = []
    room = memory_bytes
    for name in errors:
        (count, rows, columns), whole = _shape(errors, name)
        held_gradients = 0 if _by_products(count, whole) else batch * rows * columns * 4
        need = count * rows * columns * 4 + held_gradients
        if held and need > room:
            yield held
            held, room = [], memory_bytes
        held.append(name)
        room -= need
    if held:
        yield held


def _shape(errors: Mapping[str, LayerErrors], name: str) -> tuple[tuple[int, int, int], bool]:
    if isinstance(errors, ErrorsOnDemand):
        return errors.shape(name), errors.is_whole(name)
    count, rows, columns = errors[name].deltas.shape
    return (count, rows, columns), errors[name].rows is None


def _by_products(candidates: int, whole: bool) -> bool:
    return candidates <= FEW_CANDIDATES and whole


class _Chunk:
    """The projections of some layers in one sweep."""

    def __init__(
        self,
        products: InnerProducts,
        errors: Mapping[str, LayerErrors],
        centre: Mapping[str, F64],
    ) -> None:
        self.products, self.errors, self.centre = products, errors, centre
        self._known_means: dict[str, F64] = {}
        few = [n for n, e in errors.items() if _by_products(len(e.deltas), e.rows is None)]
        self._add_products(few)
        self._add_gradients([n for n in errors if n not in few])

    def _add_products(self, layers: Sequence[str]) -> None:
        """<delta_i, dW x_i>: the layer once more on its errors, whatever the number of draws."""
        p, b = self.products, self.products.builder
        changes: dict[str, list[Value]] = {}

        def use(name: str, delta: Value) -> Value:
            node = p.made.node(name)
            if name not in changes:
                changes[name] = [p.layer_change(node, rows) for rows in self.errors[name].deltas]
            columns = [p.dot(change, delta) for change in changes[name]]
            product = columns[0] if len(columns) == 1 else b.op("Concat", *columns, axis=1)
            p.keep(name, product, *([p.channel_sums(node, delta)] if name in self.centre else []))
            return product

        for draw in range(len(p.losses)):
            p.use_deltas(draw, {layer_output(p.made.node(n)).name: partial(use, n) for n in layers})

    def _add_gradients(self, layers: Sequence[str]) -> None:
        """Gradients of weights, (N, R, K), times all errors at once."""
        p, b, fed = self.products, self.products.builder, {}
        rows = {n: [int(r) for r in e.rows] for n, e in self.errors.items() if e.rows is not None}
        for name in layers:
            errors = np.ascontiguousarray(self.errors[name].deltas, np.float32)
            errors = errors.reshape(len(errors), -1)
            fed[name] = p.made.add_input(p.made.fresh(f"{name}/errors"), np.dtype(np.float32), errors.shape)
            p.extra[fed[name].name] = errors
        for draw in range(len(p.losses)) if layers else ():
            gradients = p.weight_gradients(draw, layers, rows)
            for name, found in gradients.items():
                flat = b.reshape(found.weight, [p.lead, p.extra[fed[name].name].shape[1]])
                bias = [b.reshape(found.bias, [p.lead, -1])] if name in self.centre else []
                p.keep(name, b.op("Gemm", flat, fed[name], transB=1), *bias)

    def projections(
        self, observe: ObserveGraph, seed: int, step: Callable[[int], None] | None
    ) -> dict[str, Projections]:
        """One sweep."""
        calls = len(self.products.samples.calls)
        terms: dict[str, list[list[F64]]] = {}
        for i, found in self.products.runs(observe, seed, step):
            for name, draws in found.items():
                held = terms.setdefault(name, [[] for _ in range(calls)])
                held[i] += [self._centred(name, arrays) for arrays in draws]
        return {n: self._projections(n, terms.get(n, [])) for n in self.errors}

    def _centred(self, name: str, arrays: Arrays) -> F64:
        found = arrays[0].astype(np.float64)
        if len(arrays) == 1:
            return found
        rows, bias = self.errors[name].rows, arrays[1].astype(np.float64)
        if rows is not None and bias.shape[1] != len(rows):
            bias = bias[:, rows]
        return np.asarray(found - bias @ self._means(name).T)

    def _means(self, name: str) -> F64:
        """(M, R) the mean of what the errors add to the outputs."""
        if name not in self._known_means:
            e, mean = self.errors[name], self.centre[name]
            self._known_means[name] = np.einsum(
                "mrk,rk->mr", e.deltas, mean if e.rows is None else mean[e.rows]
            )
        return self._known_means[name]

    def _projections(self, name: str, terms: Sequence[Sequence[F64]]) -> Projections:
        e = self.errors[name]
        share = 1.0 if e.rows is None else _channels(self.products.graph.node(name)) / max(1, len(e.rows))
        if not terms:  # nothing flows back to it: no output depends on it
            return Projections(np.zeros((0, 1, len(e.deltas))), share)
        return Projections(np.concatenate([np.stack(t, axis=1) for t in terms]), share)


def _channels(node: Node) -> int:
    weight = node.inputs[1]
    assert weight is not None
    return weight.dims[1] if node.op in ("Gemm", "MatMul") else weight.dims[0]
