"""A Gram matrix factored in the order in which GPTQ rounds.

H = R D R^T with R unit upper triangular, inputs in the order of rounding. Then the loss of errors e is

    e H e^T = sum_k D_k (e_k + sum_{j<k} e_j R_jk)^2

so that input k is best rounded from w_k + sum_{j<k} (w_j - q_j) R_jk: GPTQ's update, without the inverse of H. D_k is
the variance of input k given the inputs that are rounded after it, 1 / U_kk^2 of the usual H^-1 = U^T U.
[frantar2023, sec. 3.3; the form is that of 2507.18553]
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import CalibrationError
from lpcompile.formats.arrays import F32, F64, Real

ORDERS = ("activation", "natural")
SOLVED_AT_ONCE = 64
DAMPING = 0.01  # of the mean of the diagonal
_LEAST_DAMPING = 1e-8  # where none was asked for and the matrix is singular
_MORE_DAMPING = 10.0


@dataclass(frozen=True, eq=False)
class GramFactor:
    """Factors of a layer's Gram matrices; K inputs.

    Attributes:
        order: (G, K) the inputs in the order in which they are rounded.
        feedback: (G, K, K) R^T - I, strictly lower triangular, in that order: [k, j] is how much of the error of
            input j is added to input k.
        variances: (G, K) D, in that order.
    """

    order: NDArray[np.intp]
    feedback: F32
    variances: F64

    @cached_property
    def inverse_blocks(self) -> list[tuple[int, F32]]:
        """First input and inverse (G, k, k) of each diagonal block of R^T, for solving by blocks."""
        columns = self.order.shape[1]
        found = []
        for start in range(0, columns, SOLVED_AT_ONCE):
            end = min(start + SOLVED_AT_ONCE, columns)
            own = self.feedback[:, start:end, start:end].astype(np.float64) + np.eye(end - start)
            found.append((start, np.linalg.inv(own).astype(np.float32)))
        return found


def factor(gram: Real, damping: float = DAMPING, order: str | NDArray[np.intp] = "activation") -> GramFactor:
    """Factor the Gram matrices of a layer.

    Args:
        gram: (G, K, K) E[x x^T], any of them singular or zero.
        damping: added to the diagonal, relative to its mean; raised by itself for a matrix that stays singular.
        order: "activation" takes inputs of large second moment first (the lower index first on a tie), "natural" takes
            them as they come; or (G, K) permutations.

    Raises:
        CalibrationError: not (G, K, K), not finite, a negative second moment; an unknown order.
    """
    h, _ = regular(gram)
    count, columns = h.shape[:2]
    if not isinstance(order, str):
        ranks = order
        if ranks.shape != h.shape[:2] or (np.sort(ranks, axis=1) != np.arange(columns)).any():
            raise CalibrationError(f"an order must be permutations of shape {h.shape[:2]}")
    elif order not in ORDERS:
        raise CalibrationError(
            f"no order of inputs is called {order!r}", hint="use one of " + ", ".join(ORDERS)
        )
    elif order == "natural":
        ranks = np.tile(np.arange(columns), (count, 1))
    else:
        ranks = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    back = ranks[:, ::-1]  # a lower triangle from the last input on is the upper one from the first on
    # One matrix at a time by whole rows, then columns: that is how memory likes it.
    flipped = np.stack([m.take(at, axis=0).take(at, axis=1) for m, at in zip(h, back, strict=True)])
    lower = damped_cholesky(flipped, damping)[:, ::-1, ::-1]
    roots = np.diagonal(lower, axis1=1, axis2=2).copy()
    feedback = np.ascontiguousarray((lower / roots[:, None, :]).transpose(0, 2, 1), np.float32)
    at = np.arange(columns)
    feedback[:, at, at] = 0
    return GramFactor(ranks, feedback, roots**2)


def conditional_variances(gram: Real, damping: float = DAMPING, order: str = "activation") -> F64:
    """(G, K) D_k: the variance of each input given those that are rounded after it, inputs in natural order.

    GPTQ's loss is sum_k D_k r_k^2, r_k the ordinary rounding errors of the values that it rounds: the importance by
    which scales for GPTQ are searched.

    Args:
        gram: (G, K, K) as in `factor`.
        damping: as there.
        order: as there.

    Raises:
        CalibrationError: as in `factor`.
    """
    found = factor(gram, damping, order)
    variances = np.empty_like(found.variances)
    np.put_along_axis(variances, found.order, found.variances, axis=1)
    return variances


def regular(gram: Real) -> tuple[F64, NDArray[np.bool_]]:
    """The matrices in float64 with dead inputs standing alone, and (G, K) which those are.

    Raises:
        CalibrationError: not (G, K, K), not finite, a negative second moment.
    """
    h = np.array(gram, np.float64)
    diagonal = _diagonal(h)
    dead = diagonal == 0
    if dead.any():
        alive = np.maximum((~dead).sum(axis=1), 1)
        mean = diagonal.sum(axis=1) / alive
        which, at = np.nonzero(dead)
        h[which, at, :] = 0
        h[which, :, at] = 0
        h[which, at, at] = np.where(mean > 0, mean, 1.0)[which]
    return h, dead


def scaled_gram(gram: Real, damping: float = 0.0) -> tuple[F32, F64]:
    """The matrices over the means of their diagonals, float32, damped as in `factor`, and (G,) those means.

    Raises:
        CalibrationError: not (G, K, K), not finite, a negative second moment.
    """
    mean = _diagonal(gram).mean(axis=1, dtype=np.float64)
    h = (gram / np.where(mean > 0, mean, 1)[:, None, None]).astype(np.float32)
    at = np.arange(h.shape[1])
    h[:, at, at] += np.float32(damping)
    return h, mean


def _diagonal(gram: Real) -> Real:
    """(G, K) checked."""
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2] or not gram.size:
        raise CalibrationError(f"Gram matrices must be (G, K, K), not of shape {gram.shape}")
    diagonal: Real = np.diagonal(gram, axis1=1, axis2=2)
    if not (np.isfinite(gram.max()) and np.isfinite(gram.min())) or diagonal.min() < 0:
        raise CalibrationError(
            "a Gram matrix holds NaN, infinity or negative second moments", hint="check the calibration data"
        )
    return diagonal


def damped_cholesky(h: F64, damping: float) -> F64:
    """(G, K, K) lower factors of matrices with `damping` times their mean diagonal added.

    A matrix that has no factor gets ten times as much, again and again. Afterwards h holds what was factored.
    """
    at = np.arange(h.shape[1])
    mean = np.diagonal(h, axis1=1, axis2=2).mean(axis=1)
    h[:, at, at] += damping * mean[:, None]
    return _factors(h, mean, damping)


def solved(lower: F64, right: F64) -> F64:
    """(G, K, P) x of L L^T x = right, by blocks.

    Args:
        lower: L, (G, K, K) as `damped_cholesky` gives it.
        right: (G, K, P).
    """
    blocks = [slice(at, at + SOLVED_AT_ONCE) for at in range(0, lower.shape[1], SOLVED_AT_ONCE)]
    inverses = [np.linalg.inv(lower[:, b, b]) for b in blocks]
    x = right.copy()
    for b, inverse in zip(blocks, inverses, strict=True):
        x[:, b] = inverse @ (x[:, b] - lower[:, b, : b.start] @ x[:, : b.start])
    for b, inverse in zip(reversed(blocks), reversed(inverses), strict=True):
        below = lower[:, b.stop :, b].swapaxes(1, 2)
        x[:, b] = inverse.swapaxes(1, 2) @ (x[:, b] - below @ x[:, b.stop :])
    return x


def _factors(h: F64, mean: F64, damping: float) -> F64:
    try:
        return np.asarray(np.linalg.cholesky(h), np.float64)
    except np.linalg.LinAlgError:
        pass
    if len(h) > 1:  # one matrix fails for all: halve until it is found
        half = len(h) // 2
        parts = [_factors(h[s], mean[s], damping) for s in (slice(half), slice(half, None))]
        return np.concatenate(parts)
    more = max(damping * _MORE_DAMPING, _LEAST_DAMPING)
    at = np.arange(h.shape[1])
    h[:, at, at] += (more - damping) * mean[:, None]
    return _factors(h, mean, more)
