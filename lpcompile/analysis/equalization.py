"""How far the channels of an activation may be brought to one range, and whether the next layers gain.

A Relu lets positive factors through, so a Conv may give y_c / s_c where the next takes s_c y_c. One scale a tensor then
serves every channel alike. With r_c the largest |y_c| seen and R = max r_c the factors are

    s_c = sqrt(r_c / R)

half of the way on a log scale, the middle of [xiao2023]: a channel twice as narrow as the widest gets 1.4 times its
steps, and keeps 1.4 times its largest value of headroom for what the samples did not show. (Factors r_c / R, all
the way, clip on unseen samples: docs/decisions/0017.)

What a reader with weights w_ock gains and loses per output, steps of D = R / 255 and of max_ck |w_ock s_c| / 127:

    activations  D^2 / 12 sum_c s_c^2 sum_ok w_ock^2          weights  sum_o d_o^2 / 12 sum_ck E[y_c^2] / s_c^2
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

# y(s x) = s y(x) for s > 0, channel by channel
HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")
RECTIFIERS = ("Relu", "LeakyRelu")
LEAST_FACTOR = 1 / 16  # a channel that was silent on the samples may speak later
ACTIVATION_STEPS, WEIGHT_STEPS = 255, 127
PIECE = 1 << 16  # elements at a time

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Span:
    """A Conv, the tensor that shows the range of its channels, and the Convs that alone read them.

    Attributes:
        maker: the Conv that makes the channels.
        tensor: name of its output after the Relu.
        readers: the Convs at the other end.
        between: every tensor from the one to the others.
    """

    maker: Node
    tensor: str
    readers: tuple[Node, ...]
    between: tuple[Value, ...]


@dataclass
class ChannelExtremes:
    """Largest magnitude and second moment of each channel over some calls, (C,) each."""

    largest: F64
    square_sum: F64
    positions: int = 0

    @property
    def second_moment(self) -> F64:
        """E[y_c^2], (C,)."""
        return self.square_sum / max(1, self.positions)


def find_spans(graph: LpGraph) -> tuple[list[Span], dict[str, str]]:
    """Convs whose channels can be scaled, in execution order; and why others cannot, by node name."""
    found, skipped = [], {}
    for node in graph.nodes("Conv"):
        y = node.outputs[0]
        if y is None or not _constant(node):
            skipped[node.name] = "its weights or bias are not constants"
            continue
        readers: list[Node] = []
        between: list[Value] = []
        if reason := _readers(y, readers, between):
            skipped[node.name] = reason
            continue
        rectified = y.consumers[0].outputs[0] if len(y.consumers) == 1 else None
        if rectified is None or y.consumers[0].op not in RECTIFIERS:
            skipped[node.name] = "no Relu follows"
            continue
        found.append(Span(node, rectified.name, tuple(readers), tuple(between)))
    return found, skipped


def _readers(value: Value, found: list[Node], between: list[Value]) -> str:
    """Collect the Convs that read a tensor through homogeneous operators; why not, or empty."""
    if value.is_output or value.used_in_subgraph or not value.consumers:
        return "its result is read from outside"
    between.append(value)
    for node in value.consumers:
        if node.op == "Conv" and not node.domain and node.inputs[0] == value and _constant(node):
            if node not in found:
                found.append(node)
        elif node.op in HOMOGENEOUS and not node.domain and len(node.outputs) == 1:
            out = node.outputs[0]
            if out is None or (reason := _readers(out, found, between)):
                return reason if out is not None else "its result is not read"
        else:
            return f"{node.op} reads its result"
    return ""


def _constant(conv: Node) -> bool:
    values = conv.inputs[1:3]
    return all(v is not None and v.is_constant and v.dtype == np.dtype(np.float32) for v in values)


def channel_extremes(
    run: RunFeeds, calls: Iterable[Feeds], tensors: Sequence[str]
) -> Mapping[str, ChannelExtremes]:
    """One sweep over the calls; channels are on axis 1."""
    found: dict[str, ChannelExtremes] = {}
    for feeds in calls:
        values = run(feeds)
        for name in tensors:
            x = values[name]
            planes = x.reshape(x.shape[0], x.shape[1], -1)
            largest = np.maximum(planes.max((0, 2)), -planes.min((0, 2))).astype(np.float64)
            square = np.einsum("ncp,ncp->c", planes, planes).astype(np.float64)
            held = found.setdefault(name, ChannelExtremes(np.zeros_like(largest), np.zeros_like(square)))
            held.largest = np.maximum(held.largest, largest)
            held.square_sum += square
            held.positions += planes.shape[0] * planes.shape[2]
    return found


def factors(extremes: ChannelExtremes) -> F64 | None:
    """s_c, (C,), the largest 1; None where nothing was seen."""
    top = float(extremes.largest.max(initial=0.0))
    if not (math.isfinite(top) and top > 0):
        return None
    return np.maximum(np.sqrt(extremes.largest / top), LEAST_FACTOR)


def noise(readers: Sequence[Node], extremes: ChannelExtremes, *factors_each: F64) -> list[float]:
    """Noise power at the outputs of the readers for each of some choices of s, by the formula above."""
    step = float(extremes.largest.max()) / ACTIVATION_STEPS
    totals = [0.0 for _ in factors_each]
    for node in readers:
        weight = node.inputs[1]
        assert weight is not None
        group = int(node.attrs.get("group", 1))
        outputs, inputs, taps = (
            weight.values.shape[0],
            weight.values.shape[1],
            math.prod(weight.values.shape[2:]),
        )
        w = weight.values.reshape(group, outputs // group, inputs * taps)  # columns: channel, tap
        squares = np.einsum("gok,gok->gk", w, w).reshape(-1, taps).sum(1, dtype=np.float64)  # (C,)
        for i, s in enumerate(factors_each):
            moments = (extremes.second_moment / s**2).reshape(group, -1).sum(1) * taps  # (group,)
            weight_steps = _largest(w, np.repeat(s, taps).reshape(group, -1)) / WEIGHT_STEPS
            totals[i] += step**2 / 12 * float(squares @ s**2)
            totals[i] += float((weight_steps**2).sum(1) @ moments) / 12
    return totals


def _largest(w: NDArray[np.floating], s: F64) -> F64:
    """max_k |w_gok s_gk|, (G, O), in the type of w; some rows at a time, so that the products stay in the cache."""
    scale = s[:, None].astype(w.dtype)
    found = np.empty(w.shape[:2])
    rows = max(1, PIECE // max(1, w.shape[0] * w.shape[2]))
    for at in range(0, w.shape[1], rows):
        scaled = w[:, at : at + rows] * scale
        found[:, at : at + rows] = np.maximum(scaled.max(2), -scaled.min(2))
    return found
