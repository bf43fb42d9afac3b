"""A gradient graph that gives inner products of gradients with changes, per sample."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.call_sizes import with_sizes_of
from lpcompile.analysis.gradients import Head, Samples, Sweep, check_finite
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.autodiff.losses import add_loss
from lpcompile.autodiff.ordering import after
from lpcompile.autodiff.per_sample import LayerGradient, add_weight_gradients
from lpcompile.autodiff.reverse import Visit, add_gradients
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

Step = Callable[[int], None]
Use = Callable[[Value], Value]
Arrays = tuple[NDArray[np.float32], ...]


class InnerProducts:
    """A copy of a graph with losses, to which inner products are added and which is then run over the samples.

    Args:
        graph: the float graph.
        head: of the loss.
        samples: what it runs on.
        draws: of the loss's random numbers.
        at: the graph whose gradients are taken, where that is not `graph` itself but `graph` with other weights.

    Attributes:
        made: the copy.
        losses: the heads in it.
        builder: adds nodes to it.
        extra: values of further inputs.
    """

    def __init__(
        self, graph: LpGraph, head: Head, samples: Samples, draws: int, *, at: LpGraph | None = None
    ) -> None:
        self.graph, self.samples, self.draws = graph, samples, draws
        self.made = with_sizes_of(samples.calls, at or graph)
        self.losses = [
            add_loss(self.made, head.kind, head.tensors, scales=head.scales, prefix=f"loss{i}")
            for i in range(head.draws_in_one_run(draws))
        ]
        self.builder = GradientBuilder(self.made, "score")
        self.extra: dict[str, F32] = {}
        self._last: Value | None = None
        self._kept: dict[str, list[tuple[str, ...]]] = {}

    @property
    def lead(self) -> int:
        """First dimension of a Reshape that keeps the samples (0: copied), or makes the call one sample (1)."""
        return 0 if self.samples.per_sample else 1

    def use_deltas(self, draw: int, uses: Mapping[str, Use]) -> None:
        """Build what is made of the gradients at tensors, for one of the losses.

        A gradient is used as soon as it is there, and the way back goes on after that, so that it can be freed; a draw
        starts when the one before has ended. Else those of all tensors and draws would wait for each other.

        Args:
            draw: which loss.
            uses: tensor -> what makes something of its gradient and returns that; not called where none flows back.
        """
        seeds = dict(self.losses[draw].seeds)
        if self._last is not None:
            seeds = {t: after(self.builder, seed, self._last) for t, seed in seeds.items()}

        def visit(use: Use) -> Visit:
            def add(b: GradientBuilder, delta: Value) -> Value:
                self._last = use(delta)
                return after(b, delta, self._last)

            return add

        visits = {t: visit(use) for t, use in uses.items()}
        add_gradients(self.made, seeds, list(visits), prefix=f"gradient{draw}", visit=visits)

    def weight_gradients(
        self, draw: int, layers: Sequence[str], rows: Mapping[str, Sequence[int]] | None = None
    ) -> dict[str, LayerGradient]:
        """Gradients of the weights of layers for one of the losses, one a sample where samples are separable."""
        nodes = [self.made.node(n) for n in layers]
        return add_weight_gradients(
            self.made,
            self.losses[draw].seeds,
            nodes,
            per_sample=self.samples.per_sample,
            rows=rows,
            shown=True,
            prefix=f"gradient{draw}",
        )

    def layer_change(self, node: Node, rows: F32) -> Value:
        """What a layer gives on other weights without its bias, of the shape of its output."""
        weight = self.made.constant(f"{node.name}/error", as_weight(node, rows))
        attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
        return self.builder.with_shape(
            self.builder.op(node.op, node.inputs[0], weight, **attrs), layer_output(node)
        )

    def dot(self, change: Value, delta: Value) -> Value:
        """(N, 1) inner products of the samples of two tensors of one shape."""
        b = self.builder
        product = b.matmul(b.reshape(change, [self.lead, 1, -1]), b.reshape(delta, [self.lead, -1, 1]))
        return b.reshape(product, [self.lead, 1])

    def channel_sums(self, node: Node, x: Value) -> Value:
        """(N, C_out) sums over positions of a tensor of the shape of a layer's output."""
        b = self.builder
        if node.op in ("Conv", "ConvTranspose"):
            rank = len(layer_output(node).shape or ())
            sums = b.reshape(b.sum(x, list(range(2, rank))), [0, -1])
            return sums if self.samples.per_sample else b.sum(sums, [0], keepdims=True)
        weight = node.inputs[1]
        assert weight is not None
        return b.sum(b.reshape(x, [self.lead, -1, weight.dims[-1]]), [1])

    def keep(self, name: str, *tensors: Value) -> None:
        """Ask for tensors of one draw, under a name."""
        for value in tensors:
            self.made.set_type(value, np.dtype(np.float32), None)
        self._kept.setdefault(name, []).append(tuple(v.name for v in tensors))

    def runs(
        self, observe: ObserveGraph, seed: int, step: Step | None = None
    ) -> Iterator[tuple[int, Mapping[str, list[Arrays]]]]:
        """(index of the call, name -> arrays of each draw); a call comes again where the draws need several runs.

        Raises:
            GradientError: something kept is not finite; the error names what it was kept under.
        """
        wanted = list(dict.fromkeys(t for kept in self._kept.values() for pair in kept for t in pair))
        if not wanted:
            return
        sweep = Sweep(self.graph, self.made, self.losses, wanted, observe, self.samples, seed)
        for i, values in sweep.runs(self.draws, self.extra):
            self._check(values, wanted)
            yield i, {n: [tuple(values[t] for t in pair) for pair in kept] for n, kept in self._kept.items()}
            if step is not None:
                step(i + 1)

    def _check(self, values: Mapping[str, NDArray[np.float32]], wanted: Sequence[str]) -> None:
        """One look at everything, since there are many small tensors; the names only where it fails."""
        if np.isfinite(np.concatenate([values[t].reshape(-1) for t in wanted])).all():
            return
        for name, kept in self._kept.items():
            for tensor in (t for pair in kept for t in pair):
                check_finite(values[tensor], name)


def layer_output(node: Node) -> Value:
    """The output of a layer."""
    output = node.outputs[0]
    assert output is not None
    return output
