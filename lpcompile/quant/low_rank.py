"""Factors B A of low rank that repair the rounding errors E = W - W^ of a layer, in closed form.

E|(E - B A) x|^2 = tr((E - B A) R (E - B A)^T) with R = E[x x^T]. With R = S S^T and E S = U Sigma V^T the best rank r
is B = U_r, A = U_r^T E, and sum_{i>r} sigma_i^2 of the loss remains. [zhang2025]

U_r are the first eigenvectors of E R E^T, so that no root of R is taken and none inverted where a layer has fewer
outputs than inputs; the other way round they come from the S^T E^T E S of the smaller side. With R = I this is the SVD
of the residual [yao2023], with R = diag(E[x^2]) the diagonal form [zhang2024].
"""

import numpy as np

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F64, Real

METHODS = ("qera", "lqer", "svd", "loftq", "lowrank-first")


def low_rank(errors: Real, rank: int, metric: Real | None = None) -> tuple[F64, F64]:
    """The factors of at most this rank with the least loss.

    Args:
        errors: E, (C, K).
        rank: at least 1; no more than the smaller side is used.
        metric: R, (K, K), or its diagonal (K,); None: all inputs alike. It may be singular: eigenvalues below
            K eps max are none.

    Returns:
        B (C, r) with orthonormal columns, the most useful one first, and A (r, K), float64.

    Raises:
        FormatError: shapes do not fit, or numbers are not finite.
    """
    e = np.asarray(errors, np.float64)
    if e.ndim != 2 or rank < 1:
        raise FormatError(f"no factors of rank {rank} of an array of shape {e.shape}")
    if metric is not None and metric.shape not in ((e.shape[1],), (e.shape[1],) * 2):
        raise FormatError(f"a metric of shape {metric.shape} for errors of shape {e.shape}")
    if not np.isfinite(e).all() or (metric is not None and not np.isfinite(metric).all()):
        raise FormatError("errors or their metric hold NaN or infinity")
    r = min(rank, *e.shape)
    b = _first_outputs(e, r, metric) if e.shape[0] <= e.shape[1] else _by_inputs(e, r, metric)
    return b, b.T @ e


def weighted_loss(errors: Real, metric: Real | None = None) -> float:
    """tr(E R E^T), what errors add to the square of a layer's outputs; arguments as of `low_rank`."""
    e = np.asarray(errors, np.float64)
    return float(np.sum(_times(e, metric) * e))


def _times(e: F64, metric: Real | None) -> F64:
    if metric is None:
        return e
    return e * metric if metric.ndim == 1 else e @ np.asarray(metric, np.float64)


def _first_outputs(e: F64, r: int, metric: Real | None) -> F64:
    """(C, r) first eigenvectors of E R E^T."""
    return _first(_times(e, metric) @ e.T, r)


def _by_inputs(e: F64, r: int, metric: Real | None) -> F64:
    """(C, r) the same from the side of the inputs, which are fewer."""
    image = e if metric is None else e @ _root(metric)
    spanned = image @ _first(image.T @ image, min(r, image.shape[1]))
    return np.asarray(np.linalg.qr(spanned)[0])


def _first(gram: F64, r: int) -> F64:
    _, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return np.ascontiguousarray(vectors[:, ::-1][:, :r])


def _root(metric: Real) -> F64:
    """S with R = S S^T, (K, k), directions that carry nothing left out; (K, K) for a diagonal."""
    if metric.ndim == 1:
        return np.diag(np.sqrt(np.maximum(metric, 0).astype(np.float64)))
    values, vectors = np.linalg.eigh(np.asarray(metric, np.float64))
    least = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    kept = values > least
    if not kept.any():
        return np.zeros((len(values), 1))
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
