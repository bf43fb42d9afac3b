"""What one model gives against another, accumulated call by call in float64.

SQNR = 10 log10(sum a^2 / sum (a - b)^2) over all elements of all calls, a the reference. Where a value is not
finite, the same in both is equal and counts for nothing (NaN equals NaN), and any other makes the error
infinite. Equal tensors have EXACT_DB, more than float32 can tell apart, so that figures stay finite. Its standard
error is that of a ratio of means over samples, by the delta method.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.classes import class_axis, divergence
from lpcompile.analysis.inputs import Feeds
from lpcompile.errors import ModelError
from lpcompile.records import Quality

EXACT_DB = 200.0
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass
class TensorComparison:
    """One tensor of two models, over the calls seen so far."""

    is_float: bool = True
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    elements: int = 0
    different: int = 0
    rows: int = 0
    agreeing: int = 0
    divergence: float = 0.0
    energies: list[NDArray[np.float64]] = field(default_factory=list)

    def update(self, reference: NDArray[Any], other: NDArray[Any], samples: int = 1) -> None:
        """Take in the tensor of one call, whose rows are those of so many samples, one after the other."""
        self.is_float = reference.dtype.name in _FLOATS
        self.elements += reference.size
        if not self.is_float:
            self.different += int(np.count_nonzero(reference != other))
            return
        a, b = reference.astype(np.float64), other.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
                self.noise = self.max_abs = math.inf
            a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = a - b
        self.different += int(np.count_nonzero(error))
        self.signal += float(np.vdot(a, a))
        self.noise += float(np.vdot(error, error))
        if a.size:
            rows = samples if samples > 0 and a.ndim and len(a) % samples == 0 else 1
            parts = (np.reshape(x, (rows, -1)) for x in (a, error))
            self.energies.append(np.stack([np.einsum("ij,ij->i", x, x) for x in parts]))
        self.max_abs = max(self.max_abs, float(np.abs(error).max(initial=0.0)))
        axis = class_axis(reference)
        if axis is not None:
            self._classes(np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1))

    def _classes(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        self.rows += a[..., 0].size
        self.agreeing += int(np.count_nonzero(a.argmax(-1) == b.argmax(-1)))
        self.divergence += float(divergence(a, b).sum())

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise, within +-EXACT_DB; None for integers and where nothing was seen."""
        if not self.is_float or self.elements == 0:
            return None
        if self.noise == 0:
            return EXACT_DB
        if self.signal == 0 or math.isinf(self.noise):
            return -EXACT_DB
        return float(np.clip(10 * math.log10(self.signal / self.noise), -EXACT_DB, EXACT_DB))

    @property
    def sqnr_error_db(self) -> float | None:
        """Standard error of `sqnr_db` from the spread over samples; None for one, or where nothing is lost."""
        known = np.concatenate(self.energies, axis=1) if self.energies else np.zeros((2, 0))
        count = known.shape[1]
        if count < 2 or not (self.signal > 0 and 0 < self.noise < math.inf):
            return None
        signal, noise = known / known.mean(axis=1, keepdims=True)
        return float(10 / math.log(10) * (noise - signal).std(ddof=1) / math.sqrt(count))

    @property
    def agreement(self) -> float | None:
        """Rate of equal arg-maxes along the class axis; for integers the rate of equal elements."""
        if self.rows:
            return self.agreeing / self.rows
        if not self.is_float and self.elements:
            return 1 - self.different / self.elements
        return None

    @property
    def kl(self) -> float | None:
        """Mean KL divergence in nats of the class distributions, the reference's first."""
        return self.divergence / self.rows if self.rows else None


def _samples(outputs: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]] | None) -> int:
    rows = next((len(a) for a in outputs.values() if a.ndim >= 2), 1)
    given = {len(a) for a in (feeds or {}).values() if a.ndim}
    if feeds is None or rows in given:
        return rows
    each = given.pop() if len(given) == 1 else 0  # rows of all samples in one axis, as of tokens
    return each if each and rows % each == 0 else 1


@dataclass
class Comparison:
    """Every output of two models on the same calls.

    Attributes:
        tensors: by output name, in the order of the reference.
        samples: rows of the first output that has rows, where the inputs have them too; else one a call.
        free: by output name, axes whose length is found in the data, as of what NonZero gives.
        unequal: by output name, calls that were left out because such an axis has another length.
    """

    tensors: dict[str, TensorComparison] = field(default_factory=dict)
    samples: int = 0
    free: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unequal: dict[str, int] = field(default_factory=dict)

    def update(
        self,
        reference: Mapping[str, NDArray[Any]],
        other: Mapping[str, NDArray[Any]],
        feeds: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Take in the outputs of one call; the feeds tell whether rows are samples, or boxes of one.

        Raises:
            ModelError: an output is missing from the other, or has another shape on an axis that is not free.
        """
        samples = _samples(reference, feeds)
        self.samples += samples
        for name, a in reference.items():
            b = other.get(name)
            if b is not None and b.shape != a.shape and self._may_differ(name, a, b):
                self.unequal[name] = self.unequal.get(name, 0) + 1
                continue
            if b is None or b.shape != a.shape:
                found = "is missing" if b is None else f"has shape {b.shape} instead of {a.shape}"
                raise ModelError(f"output '{name}' {found}", hint="compare models of the same interface")
            self.tensors.setdefault(name, TensorComparison()).update(a, b, samples)

    def _may_differ(self, name: str, a: NDArray[Any], b: NDArray[Any]) -> bool:
        axes = {i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=False)) if m != n}
        return a.ndim == b.ndim and axes <= self.free.get(name, frozenset())

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the worst float output: outputs differ in scale, so they are not added up."""
        return None if (worst := self._worst) is None else worst.sqnr_db

    @property
    def sqnr_error_db(self) -> float | None:
        """Standard error of that."""
        return None if (worst := self._worst) is None else worst.sqnr_error_db

    @property
    def _worst(self) -> TensorComparison | None:
        known = [(db, t) for t in self.tensors.values() if (db := t.sqnr_db) is not None]
        return min(known, key=lambda k: k[0])[1] if known else None

    @property
    def agreement(self) -> float | None:
        """Agreement of the first output that has one."""
        return next((t.agreement for t in self.tensors.values() if t.agreement is not None), None)

    @property
    def kl(self) -> float | None:
        """KL divergence of the first output that has one."""
        return next((t.kl for t in self.tensors.values() if t.kl is not None), None)

    @property
    def max_abs(self) -> float | None:
        """The largest absolute error of any float output; None where there is none."""
        return max((t.max_abs for t in self.tensors.values() if t.is_float), default=None)

    def quality(self, *, held_back: bool) -> Quality:
        """The figures as a record."""
        return Quality(
            samples=self.samples,
            sqnr_db_output=self.sqnr_db,
            sqnr_error_db=self.sqnr_error_db,
            top1_agreement=self.agreement,
            max_abs_error=self.max_abs,
            kl=self.kl,
            outputs={name: t.sqnr_db for name, t in self.tensors.items()},
            held_back=held_back,
        )


def compare(pairs: Iterable[tuple[Feeds, Feeds]]) -> Comparison:
    """Compare outputs of a reference and of another model, call by call."""
    comparison = Comparison()
    for reference, other in pairs:
        comparison.update(reference, other)
    return comparison
