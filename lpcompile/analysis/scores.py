"""A mean over samples with its standard error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """What M alternatives score, estimated from samples.

    Attributes:
        mean: (M,).
        standard_error: of `mean`, (M,), from the spread over samples; 0 where there was one sample.
        samples: how many terms the mean has.
    """

    mean: F64
    standard_error: F64
    samples: int

    @classmethod
    def of_terms(cls, terms: F64, *, factor: float = 1.0) -> "Score":
        """The mean over the first axis of (N, M) independent terms, times a factor."""
        n = len(terms)
        mean = terms.mean(0) * abs(factor) * np.sign(factor)
        error = terms.std(0, ddof=1) * abs(factor) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
        return cls(np.asarray(mean), np.asarray(error), n)

    @property
    def value(self) -> float:
        """The mean of the only alternative."""
        assert self.mean.size == 1
        return float(self.mean.reshape(-1)[0])

    @property
    def error(self) -> float:
        """Its standard error."""
        assert self.mean.size == 1
        return float(self.standard_error.reshape(-1)[0])


def concatenated(parts: Sequence[F64]) -> F64:
    """Terms of several calls, (N, ...), as one array."""
    return np.concatenate([np.asarray(p, np.float64) for p in parts])
