"""Operators in float64 where the reference evaluator of onnx 1.23 rounds to float32 or computes something else."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


class Erf(OpRun):
    """The error function; onnx's own rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """x times the normal distribution function, which onnx's own builds from its Erf."""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))),)


class LRN(OpRun):
    """Onnx's own normalises as many channels as the batch has samples."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        margins = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x * x, margins), size, axis=1)
        return (x / (bias + alpha / size * windows.sum(axis=-1)) ** beta,)


class LpNormalization(OpRun):
    """Onnx's own takes no magnitudes for p = 1."""

    def _run(self, x: Array, axis: int = -1, p: int = 2) -> tuple[Array]:
        return (x / np.linalg.norm(x, ord=p, axis=axis, keepdims=True),)


REFERENCE_OPS: list[type[OpRun]] = [Erf, Gelu, LRN, LpNormalization]
