"""Class probabilities: along which axis a tensor has them, and how far two of them are apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def class_axis(x: NDArray[Any]) -> int | None:
    """The axis of the classes: the last of (N, C) and (N, T, C), the second of (N, C, *spatial).

    None where there is none to speak of: scalars, vectors, and a single class.
    """
    if x.ndim < 2 or x.size == 0:
        return None
    axis = x.ndim - 1 if x.ndim <= 3 else 1
    return axis if x.shape[axis] > 1 else None


def log_probabilities(x: F64) -> F64:
    """Log of probabilities (non-negative, last axis sums to one), or log-softmax of anything else."""
    total = x.sum(-1)
    if x.min() >= 0 and np.allclose(total, 1, atol=1e-2):
        tiny = np.finfo(np.float32).tiny
        return np.asarray(np.log(np.maximum(x, tiny) / np.maximum(x, tiny).sum(-1, keepdims=True)))
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def divergence(a: F64, b: F64) -> F64:
    """KL(a || b) in nats over the last axis of probabilities or logits, one for each row."""
    log_p, log_q = log_probabilities(a), log_probabilities(b)
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(-1))
