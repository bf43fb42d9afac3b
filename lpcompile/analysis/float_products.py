"""The products W x of layers in the float graph, to be correlated with columns of inputs of another graph.

D = E[(W x) x^^T] is all that rounding needs of the float graph. Layers with fewer outputs than inputs give W x as their
own outputs, less the bias: no input is unfolded, and the product with x^ is that much smaller. Others take
C = E[x x^^T], which layers that read alike share, and D = W C.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.analysis.sampled_columns import Positions
from lpcompile.formats.arrays import F32, F64
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.quant.rows import to_rows

Products = Mapping[str, tuple[F64, F64]]  # name -> D (C_out, K), E[W x] (C_out,)


class FloatProducts(Protocol):
    """How W x of layers that read alike is found.

    Attributes:
        tensors: of the float graph that are read.
        rows: of the columns, of each group.
    """

    tensors: Sequence[str]
    rows: int

    def spans(self, values: Feeds) -> tuple[int, ...]:
        """The dimensions that positions run over, as `InputReading.spans`."""

    def columns(self, values: Feeds, at: Positions) -> F32:
        """At flat positions (images first), (G, rows, len(at))."""

    def of_layers(self, cross: F64, mean: F64, rounded_mean: F64) -> Products:
        """D and E[W x] of each layer.

        Args:
            cross: E[columns x^^T], (G, rows, K).
            mean: E[columns], (G, rows).
            rounded_mean: E[x^], (G, K).
        """


def float_products(graph: LpGraph, reading: InputReading, layers: Sequence[str]) -> FloatProducts:
    """The cheaper way for the layers of one reading."""
    outputs = {name: output_reading(graph.node(name), reading.groups) for name in layers}
    known = {name: o for name, o in outputs.items() if o is not None}
    if len(known) == len(layers) and sum(o.rows for o in known.values()) <= reading.inputs:
        return _OfOutputs(known)
    return _OfInputs(graph, reading, layers)


@dataclass(frozen=True, slots=True)
class OutputReading:
    """Where W x of a layer stands.

    Attributes:
        tensor: the layer's output.
        groups: G, of a convolution; else 1.
        rows: C_out / G.
        convolves: its channels are axis 1, else the last.
        bias: that is in the output, (C_out,); None if there is none.
    """

    tensor: str
    groups: int
    rows: int
    convolves: bool
    bias: F32 | None

    def spans(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The dimensions that positions run over."""
        return (shape[0], *shape[2:]) if self.convolves else shape[:-1]

    def columns(self, y: NDArray[np.generic], at: Positions) -> F32:
        """The outputs at flat positions (images first), (G, rows, len(at))."""
        channels = self.groups * self.rows
        if self.convolves:
            flat = y.reshape(y.shape[0], channels, -1)
            image, position = np.divmod(at, flat.shape[2])
            taken = flat[0].take(position, axis=1) if len(flat) == 1 else flat[image, :, position].T
        else:
            rows = y.reshape(-1, channels)
            taken = (rows if len(at) == len(rows) else rows[at]).T
        return np.asarray(taken, np.float32).reshape(self.groups, self.rows, len(at))


def output_reading(node: Node, groups: int) -> OutputReading | None:
    """Where W x of a layer stands; None where its output holds more than that and a constant bias."""
    weight, bias = (*node.inputs, None, None)[1:3]
    output = node.outputs[0]
    if weight is None or output is None or any(node.attrs.get(k, 1) != 1 for k in ("alpha", "beta")):
        return None
    if bias is not None and not bias.is_constant:
        return None
    rows = weight.dims[0] if node.op == "Conv" else weight.dims[-1]
    added = None if bias is None else np.asarray(bias.values, np.float32).reshape(-1)
    if added is not None and added.size not in (1, rows):
        return None
    return OutputReading(output.name, groups, rows // groups, node.op == "Conv", added)


class _OfOutputs:
    def __init__(self, outputs: Mapping[str, OutputReading]) -> None:
        self._outputs = outputs
        self.tensors: Sequence[str] = [o.tensor for o in outputs.values()]
        self.rows = sum(o.rows for o in outputs.values())

    def spans(self, values: Feeds) -> tuple[int, ...]:
        first = next(iter(self._outputs.values()))
        return first.spans(values[first.tensor].shape)

    def columns(self, values: Feeds, at: Positions) -> F32:
        found = [o.columns(values[o.tensor], at) for o in self._outputs.values()]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def of_layers(self, cross: F64, mean: F64, rounded_mean: F64) -> Products:
        found, start = dict[str, tuple[F64, F64]](), 0
        for name, o in self._outputs.items():
            own, means = cross[:, start : start + o.rows], mean[:, start : start + o.rows]
            start += o.rows
            if o.bias is not None:
                bias = np.broadcast_to(o.bias, o.groups * o.rows).reshape(o.groups, o.rows)
                own, means = own - bias[:, :, None] * rounded_mean[:, None, :], means - bias
            found[name] = own.reshape(-1, own.shape[-1]), means.reshape(-1)
        return found


class _OfInputs:
    def __init__(self, graph: LpGraph, reading: InputReading, layers: Sequence[str]) -> None:
        self._graph, self._reading, self._layers = graph, reading, layers
        self.tensors: Sequence[str] = [reading.tensor]
        self.rows = reading.inputs

    def spans(self, values: Feeds) -> tuple[int, ...]:
        return self._reading.spans(values[self._reading.tensor].shape)

    def columns(self, values: Feeds, at: Positions) -> F32:
        return self._reading.columns(values[self._reading.tensor], at)

    def of_layers(self, cross: F64, mean: F64, rounded_mean: F64) -> Products:
        del rounded_mean
        found = {}
        for name in self._layers:
            node = self._graph.node(name)
            weight = node.inputs[1]
            assert weight is not None
            rows = to_rows(node.op, weight.values).reshape(len(cross), -1, cross.shape[-1])
            products, means = rows @ cross, (rows @ mean[:, :, None])[..., 0]
            found[name] = products.reshape(-1, cross.shape[-1]), means.reshape(-1)
        return found
