"""Move what every value of a channel has in common through a rectifier, from the bias before it to those after it.

f(y) = f(y - c) + c for y >= c >= 0, so b1 - c before and b2 + W2 c after give the same and the channel needs a
narrower range. c is the mean less three standard deviations, and never more than the least value of the calibration
samples. [nagel2019, sec. 4.1.3]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import F64, ChannelAffine
from lpcompile.passes.constant_inputs import output_at
from lpcompile.passes.layer_constants import (
    absorb_after,
    absorb_after_matmul,
    absorb_before,
    layer_and_row,
    unpadded,
    weight_obstacle,
)
from lpcompile.pipeline import ObserveGraph
from lpcompile.records import PassReport

RECTIFIERS = ("Relu", "LeakyRelu", "PRelu")
DEVIATIONS = 3.0
LEAST_GAIN = 1.05  # of the range of the tensor; less is not worth what unseen samples may lose
SUFFIX = "/absorbed"


@dataclass(frozen=True, slots=True)
class Rectified:
    """A rectifier between layers.

    Attributes:
        layer: before it.
        row: the Add of a bias after that, of a MatMul.
        node: the rectifier.
        readers: the layers after it.
    """

    layer: Node
    row: Node | None
    node: Node
    readers: tuple[Node, ...]


def absorb_biases(graph: LpGraph, calls: Sequence[Feeds], observe: ObserveGraph, report: PassReport) -> None:
    """Absorb wherever the range of a rectified tensor shrinks.

    Args:
        graph: changed in place.
        calls: all deciding calls, for one of them may hold the least value.
        observe: opens the graph.
        report: says what was done.
    """
    found: dict[str, Rectified] = {}
    for node in graph.nodes(*RECTIFIERS):
        span = _rectified(graph, node)
        if isinstance(span, str):
            report.skip(node, span)
        else:
            found[_tensor(node).name] = span
    if not found:
        return
    run, moments = observe(graph, list(found)), {name: _Moments() for name in found}
    for feeds in calls:
        values = run(feeds)
        for name, held in moments.items():
            held.add(values[name], _axis(found[name]))
    for name, span in found.items():
        c, gain = moments[name].common()
        if not gain >= LEAST_GAIN:
            report.skip(span.node, "its channels have too little in common")
            continue
        _absorb(graph, span, c)
        report.change(
            span.node,
            f"bias absorbed by {', '.join(n.name for n in span.readers)}",
            after=f"range {gain:.3g} times narrower",
        )


class _Moments:
    """Least and largest value, mean and deviation of each channel."""

    def __init__(self) -> None:
        self._least: F64 = np.zeros(0)
        self._largest: F64 = np.zeros(0)
        self._sum: F64 = np.zeros(0)
        self._squares: F64 = np.zeros(0)
        self._count = 0

    def add(self, x: np.ndarray, axis: int) -> None:
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)  # (C, positions)
        if not self._count:
            self._least, self._largest = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
            self._sum, self._squares = np.zeros(len(rows)), np.zeros(len(rows))
        self._least = np.minimum(self._least, rows.min(1, initial=np.inf))
        self._largest = np.maximum(self._largest, rows.max(1, initial=-np.inf))
        self._sum += rows.sum(1, dtype=np.float64)
        self._squares += np.einsum("cn,cn->c", rows, rows, dtype=np.float64)
        self._count += rows.shape[1]

    def common(self) -> tuple[F64, float]:
        """What is taken out of each channel, (C,), and how many times narrower the range above zero becomes."""
        if not self._count:
            return self._sum, 1.0
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        c = np.maximum(0, np.minimum(mean - DEVIATIONS * deviation, self._least))
        return c, float(self._largest.max() / max((self._largest - c).max(), np.finfo(np.float32).tiny))


def _rectified(graph: LpGraph, node: Node) -> Rectified | str:
    y, r = _tensor(node), output_at(node)
    if node.op == "PRelu" and (node.inputs[1] is None or not node.inputs[1].is_constant):
        return "its slope is not constant"
    layer, row = layer_and_row(y)
    if layer is None or (layer.op == "MatMul" and row is None):
        return "no layer with a bias gives its input"
    if (reason := weight_obstacle(layer)) is not None:
        return reason
    between = [y] if row is None else [y, output_at(layer)]
    if any(graph.sole_producer(v) is None for v in between):
        return "its input is used elsewhere too"
    if r.is_output or r.used_in_subgraph:
        return "its result is read from outside"
    for reader in r.consumers:
        if reader.domain or reader.op not in ("Conv", "Gemm") or reader.inputs[0] != r:
            return f"{reader.op} reads its result"
        if (reason := weight_obstacle(reader)) is not None:
            return reason
        if reader.op == "Conv" and not unpadded(reader):
            return f"the padding of {reader.name} is not shifted"
        if reader.attrs.get("transA", 0):
            return f"{reader.name} transposes its input"
    return Rectified(layer, row, node, tuple(r.consumers))


def _absorb(graph: LpGraph, span: Rectified, c: F64) -> None:
    y, r = _tensor(span.node), output_at(span.node)
    down = ChannelAffine(y, np.ones_like(c), -c)
    if span.row is None:
        absorb_after(graph, span.layer, down)
    else:
        absorb_after_matmul(graph, span.layer, span.row, down)
    for reader in span.readers:
        absorb_before(graph, reader, ChannelAffine(r, np.ones_like(c), c))
    for value in (y, r):
        graph.rename(value, value.name + SUFFIX)


def _tensor(node: Node) -> Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _axis(span: Rectified) -> int:
    return -1 if span.layer.op in ("Gemm", "MatMul") else 1
