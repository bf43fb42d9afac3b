"""Inputs for a model without samples, drawn to match the batch-norm statistics of its first layers.

A layer with weights w (O, C, *taps) whose result a batch norm reads has known means mu_o and variances v_o. Take the
pixels of input channel c as noise of mean a_c, variance s_c and correlation r^|d| between pixels d apart along an axis.
Then mu_o = bias_o + sum_c a_c sum_t w_oct, and v_o = sum_c s_c sum_{t,t'} w_oct w_oct' r^|t-t'|: linear in a, and for
each r of a short list linear in s >= 0. The best fit by least squares gives the noise: [cai2020] without its
search by gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.inputs import InputSpec, random_feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.quant.rows import to_rows

F64 = NDArray[np.float64]
CALLS = 16
CORRELATIONS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
RIDGE = 1e-3
SPATIAL_RANK = 3
GENERATED_SOURCE = "generated inputs"
GENERATED_WARNING = (
    "no calibration data: activation ranges come from generated inputs; --calibration-data fits better"
)
GENERATED_ASSUMPTION = {
    "what": "ranges of activations",
    "source": "assumed: inputs like noise that matches the batch-norm statistics of the first layers, or plain noise",
}


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise by channel.

    Attributes:
        mean, deviation: (C,).
        correlation: of neighbouring pixels.
        axis: of the channels in the input.
    """

    mean: F64
    deviation: F64
    correlation: float
    axis: int


def generated_calibration(
    graph: LpGraph, inputs: Sequence[InputSpec], seed: int, shapes: Mapping[str, Sequence[int]]
) -> Calibration:
    """Calls of a model for which there are no samples.

    Args:
        graph: as it came, batch norms not yet folded.
        inputs: what the model takes.
        seed: of the draws.
        shapes: concrete shapes of inputs with symbolic axes.
    """
    noises = {v.name: noise for v in graph.inputs if (noise := fitted_noise(v)) is not None}
    calls = []
    for i in range(CALLS):
        feeds = random_feeds(inputs, seed + i, shapes)
        rng = np.random.default_rng([seed, i])
        plain = CORRELATIONS[i % len(CORRELATIONS)]  # pictures are smooth, other signals may not be
        calls.append({name: _drawn(x, noises.get(name), plain, rng) for name, x in feeds.items()})
    return Calibration(calls, GENERATED_SOURCE, generated=True)


def _drawn(like: NDArray[Any], noise: Noise | None, plain: float, rng: np.random.Generator) -> NDArray[Any]:
    """One array: as fitted, or of mean 0 and variance 1 where nothing is known; only floats are replaced."""
    if noise is not None and like.ndim > noise.axis and like.shape[noise.axis] == len(noise.mean):
        wide = [1] * like.ndim
        wide[noise.axis] = -1
        x = _correlated(rng.standard_normal(like.shape), noise.correlation, noise.axis)
        return (x * noise.deviation.reshape(wide) + noise.mean.reshape(wide)).astype(like.dtype)
    if like.ndim < SPATIAL_RANK or like.dtype.kind != "f":
        return like
    return _correlated(like.astype(np.float64), plain, 1).astype(like.dtype)


def _correlated(x: F64, r: float, channels: int) -> F64:
    """White noise made smooth along every axis but the batch and the channels: neighbours correlate by r."""
    for axis in range(1, x.ndim):
        if axis == channels or not r:
            continue
        lines = np.moveaxis(x, axis, 0)
        for i in range(1, len(lines)):
            lines[i] = r * lines[i - 1] + np.sqrt(1 - r * r) * lines[i]
    return x


def fitted_noise(value: Value) -> Noise | None:
    """Noise on an input that gives the first batch norm behind it what it expects; None where there is none."""
    found = _first_layer(value)
    if found is None:
        return None
    layer, norm, axis = found
    weights = _weights(layer)
    mean, variance = (_numbers(norm, i) for i in (3, 4))
    if weights is None or mean is None or variance is None or len(mean) != len(weights):
        return None
    bias = _numbers(layer, 2)
    sums = weights.reshape(*weights.shape[:2], -1).sum(2)
    a = _least_squares(sums, mean - (0 if bias is None else bias))
    best: tuple[float, F64, float] | None = None
    for r in CORRELATIONS if weights.ndim > 2 else (0.0,):
        power = _powers(weights, r)
        s = _nonnegative(power, variance)
        error = float(np.square((power @ s - variance) / np.maximum(variance, 1e-12)).mean())
        if best is None or error < best[0]:
            best = (error, s, r)
    assert best is not None
    return Noise(a, np.sqrt(best[1]), best[2], axis)


def _first_layer(value: Value) -> tuple[Node, Node, int] | None:
    """The Conv or Gemm that reads an input, perhaps transposed, with its batch norm, and the axis of the channels."""
    axis = 1
    for reader in value.consumers:
        node: Node = reader
        if node.op == "Transpose" and not node.domain and node.outputs[0] is not None:
            perm = list(node.attrs.get("perm") or [])
            readers = node.outputs[0].consumers
            if len(perm) < 2 or not readers:
                continue
            axis, node = int(perm[1]), readers[0]
        if node.op not in ("Conv", "Gemm") or node.attrs.get("group", 1) != 1:
            continue
        readers = [] if node.outputs[0] is None else node.outputs[0].consumers
        norm = next((n for n in readers if n.op == "BatchNormalization" and not n.domain), None)
        if norm is not None:
            return node, norm, axis
    return None


def _weights(layer: Node) -> F64 | None:
    """(O, C, *taps)."""
    weight = layer.inputs[1]
    if weight is None or not weight.is_constant:
        return None
    w = weight.values.astype(np.float32)
    if layer.op == "Conv":
        return w.astype(np.float64)
    return (w if layer.attrs.get("transB", 0) else to_rows("Gemm", w)).astype(np.float64)


def _numbers(node: Node, i: int) -> F64 | None:
    value = node.inputs[i] if i < len(node.inputs) else None
    return None if value is None or not value.is_constant else value.values.astype(np.float64).reshape(-1)


def _powers(weights: F64, r: float) -> F64:
    """(O, C): the variance of the result for inputs of variance 1."""
    correlation: F64 = np.ones((1, 1))
    for taps in weights.shape[2:]:
        apart = np.abs(np.subtract.outer(np.arange(taps), np.arange(taps)))
        correlation = np.asarray(np.kron(correlation, np.power(r, apart)), np.float64)
    flat = weights.reshape(*weights.shape[:2], -1)
    return np.asarray(np.einsum("oct,tu,ocu->oc", flat, correlation, flat, optimize=True))


def _least_squares(matrix: F64, wanted: F64) -> F64:
    """Ridge: channels that the layer hardly reads stay near zero."""
    gram = matrix.T @ matrix
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), matrix.T @ wanted), np.float64)


def _nonnegative(matrix: F64, wanted: F64, sweeps: int = 200) -> F64:
    """Least squares over numbers that are not negative, by coordinate descent, errors relative to `wanted`."""
    weight = 1 / np.maximum(wanted, 1e-12)
    a, y = matrix * weight[:, None], wanted * weight
    gram, right = a.T @ a, a.T @ y
    x = np.full(len(gram), max(float(right.sum() / max(gram.sum(), 1e-30)), 0.0))
    for _ in range(sweeps):
        for i in range(len(x)):
            if gram[i, i] > 0:
                x[i] = max(0.0, x[i] + (right[i] - gram[i] @ x) / gram[i, i])
    return x
