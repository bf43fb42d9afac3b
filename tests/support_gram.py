"""Layers with correlated inputs, and what their rounding costs, for tests of rounding from Gram matrices."""

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index
from tests.support_quant import FLOAT_FORMATS, IMAGE_FORMATS

# (format, granularity): every kind of levels with every kind of scale that it can take
FITTED = (
    *((f, g) for f in IMAGE_FORMATS for g in ("channel", "tensor")),
    *((f, "group") for f in IMAGE_FORMATS if f != "int8"),
    *((f, g) for f in FLOAT_FORMATS for g in ("channel", "tensor")),
    ("int4_narrow", "channel"),
    ("posit8", "channel"),
)


def weights(rows: int, columns: int, seed: int = 0) -> F32:
    return np.random.default_rng([seed, 1]).standard_normal((rows, columns)).astype(np.float32)


def gram_of(x: F64) -> F64:
    """(G, N, K) inputs -> (G, K, K)."""
    return np.asarray(x.transpose(0, 2, 1) @ x / x.shape[1])


def inputs(columns: int, count: int = 1, samples: int = 200, seed: int = 0) -> F64:
    """(count, samples, K) positive, correlated, of different sizes."""
    rng = np.random.default_rng([seed, 2])
    mixed = rng.standard_normal((count, samples, columns)) + rng.standard_normal((count, samples, 1))
    return np.asarray(np.maximum(mixed, 0) * np.exp(rng.standard_normal((count, 1, columns))))


def gram(columns: int, count: int = 1, seed: int = 0) -> F64:
    return gram_of(inputs(columns, count, seed=seed))


def fitted(w: F32, name: str, granularity: str = "channel", size: int = 8) -> QuantizedTensor:
    """Clips, so that some codes stand at the ends."""
    rule = "mse" if granularity != "group" else "percentile"
    return fit(w, resolve(name), granularity=granularity, group_size=size, rule=rule)


def losses(w: F32, tensor: QuantizedTensor, h: F64, groups: Index | None = None) -> F64:
    """(R,) e H e^T, float64."""
    e = w.astype(np.float64) - tensor.dequantize()
    of = np.arange(len(w)) // (len(w) // len(h)) if groups is None else groups
    return np.array([row @ h[g] @ row for row, g in zip(e, of, strict=True)])
