"""Learned codebooks: 16 int8 levels for one layer, searched together with its scales.

For given scales the weights, divided by them, are numbers on the int8 axis, and the border between two int8 levels is
a multiple of 1/2. So three moments (weight, first, second) for each half step hold the exact error of every table, and
the best table is a shortest path through the 255 positions: no local minimum as in k-means [azizi2023; notes sec. 7].
With integer group scales the rows `T[m]` of the declared table are taken as they are, rounding and all. Tables and
scales are improved in turn, from several starts; the result is never worse than the best of the starts (nf4: its int8
image).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError
from lpcompile.formats.arrays import F32, F64, I8
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.codebook import LearnedTable
from lpcompile.formats.group import MULTIPLIERS
from lpcompile.quant.fit import damped_importance, fit
from lpcompile.quant.qtensor import QuantizedTensor

STARTS = ("posit4", "nf4", "fixp4", "float4_e2m1fn")
ROUNDS = 4
SAMPLE_WEIGHTS = 1 << 17
_LEVELS = 16
_TOP = 127
_POSITIONS = np.arange(-_TOP, _TOP + 1)
_EDGE = 2 * _TOP + 2  # half steps on either side of zero; beyond it weights are clipped all the same
_GAIN = 1e-4  # relative; less is no progress


@dataclass(frozen=True)
class Fitting:
    """How a layer is fitted: the arguments of `fit` beside weights and format."""

    granularity: str = "channel"
    group_size: int = 32
    rule: str = "mse"
    scale_format: str = "float32"
    importance: F32 | None = None
    min_scale: F32 | None = None

    def fit(self, w: F32, fmt: NumberFormat, rows: slice = slice(None)) -> QuantizedTensor:
        """Codes of rows of w."""
        return fit(
            w[rows],
            fmt,
            granularity=self.granularity,
            group_size=self.group_size,
            rule=self.rule,
            scale_format=self.scale_format,
            importance=self.importance,
            min_scale=None if self.min_scale is None else self.min_scale[rows],
        )

    def weights(self, columns: int) -> F32:
        """(K,) what squared errors count: the inputs' second moments where the rule minds them."""
        if self.rule != "output-mse":
            return np.ones(columns, np.float32)
        return damped_importance(self.importance, columns)


def fit_codebook(
    w: F32,
    fitting: Fitting,
    *,
    rounds: int = ROUNDS,
    starts: Sequence[str] = STARTS,
    sample_weights: int = SAMPLE_WEIGHTS,
) -> QuantizedTensor:
    """Learn a table and quantise with it.

    Args:
        w: (C, K) float32: output channels by inputs.
        fitting: granularity, scale rule, importance.
        rounds: most improvements of table and scales in turn, from the best of the starts and from quantiles.
        starts: formats whose int8 images are tried; the result is not worse than any of them.
        sample_weights: rows spread evenly, of at least so many weights, decide on the table.

    Returns:
        What `fit` gives for the learned table; its `format` is that table.

    Raises:
        FormatError: as `fit`.
    """
    w = np.ascontiguousarray(w, np.float32)
    if w.ndim != 2 or not w.size:
        raise FormatError(f"weights of shape {w.shape} are no matrix", hint="leave this layer in float")
    rows = slice(None, None, max(1, w.size // sample_weights))
    search = _Search(w[rows], fitting, rows)
    best_start = min((search.tried(_starting_table(name)) for name in starts), key=lambda t: t.loss)
    best = best_start
    for start in (best_start, search.tried(_quantile_table(search.normalised(best_start)))):
        found = search.improved(start, rounds)
        best = min(best, found, key=lambda t: t.loss)
    if rows.step == 1:
        return best.tensor
    whole = _Search(w, fitting, slice(None))
    chosen = [whole.tried(fmt) for fmt in dict.fromkeys((best.format, best_start.format))]
    return min(chosen, key=lambda t: t.loss).tensor


@dataclass(frozen=True)
class _Trial:
    tensor: QuantizedTensor
    loss: float

    @property
    def format(self) -> NumberFormat:
        return self.tensor.format


class _Search:
    """Tables for some rows of a layer."""

    def __init__(self, w: F32, fitting: Fitting, rows: slice) -> None:
        self._w = w
        self._fitting = fitting
        least = fitting.min_scale
        self._least = None if least is None else least[rows]
        self._h = fitting.weights(w.shape[1])

    def tried(self, fmt: NumberFormat) -> _Trial:
        f = self._fitting
        tensor = Fitting(f.granularity, f.group_size, f.rule, f.scale_format, f.importance, self._least).fit(
            self._w, fmt
        )
        return _Trial(tensor, weighted_loss(self._w, tensor, self._h))

    def improved(self, start: _Trial, rounds: int) -> _Trial:
        best = start
        for _ in range(rounds):
            found = self.tried(LearnedTable.from_levels(best_levels(*self._moments(best))))
            if found.loss >= best.loss * (1 - _GAIN):
                return min(best, found, key=lambda t: t.loss)
            best = found
        return best

    def normalised(self, trial: _Trial) -> F32:
        """Weights divided by the step of their image."""
        scale = trial.tensor.int8_image()[1].reshape(-1, 1)
        return np.divide(self._w, scale)

    def _moments(self, trial: _Trial) -> tuple[F64, bool]:
        """Moments of half steps for each multiplier, and whether they belong to groups.

        Without groups the scales of the trial are raised to where its largest level is 127; with them, that is how
        tables are declared.
        """
        tensor = trial.tensor
        step = tensor.int8_image()[1].reshape(-1, 1)
        grouped = tensor.has_integer_groups
        if not grouped:
            step = step * np.float32(trial.format.max / _TOP)
        x = self._w / step
        relative = step / step.max()
        weight = self._h * (relative * relative)
        if not grouped:
            return half_step_moments(x, weight, None), False
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape)
        return half_step_moments(x, weight, m), True


def weighted_loss(w: F32, tensor: QuantizedTensor, importance: F32) -> float:
    """Sum of importance (K,) times squared error."""
    d = w - tensor.dequantize()
    unit = float(
        2.0 ** np.frexp(np.abs(w).max(initial=0))[1]
    )  # squares of tiny weights would be lost in float32
    d /= np.float32(unit)
    return float(np.einsum("ij,ij->j", d, d).astype(np.float64) @ importance.astype(np.float64)) * unit**2


def half_step_moments(x: F32, weight: F32, multipliers: NDArray[np.uint8] | None) -> F64:
    """Sums of weight, weight * x and weight * x^2 over each half step of the int8 axis.

    Args:
        x: numbers on the axis.
        weight: of each, broadcastable to x.
        multipliers: of each; None: one for all.

    Returns:
        (M, 3, 2 * _EDGE): M = 15 multipliers, or 1.
    """
    half = np.clip(np.floor(x + x), -_EDGE, _EDGE - 1).astype(np.intp) + _EDGE
    count = 1 if multipliers is None else MULTIPLIERS
    if multipliers is not None:
        half += (multipliers.astype(np.intp) - 1) * (2 * _EDGE)
    at, bins = half.reshape(-1), count * 2 * _EDGE
    v = np.broadcast_to(weight, x.shape).astype(np.float64)
    parts = []
    for _ in range(3):
        parts.append(np.bincount(at, v.reshape(-1), minlength=bins).reshape(count, -1))
        v = v * x
    return np.stack(parts, axis=1)


def best_levels(moments: F64, grouped: bool) -> I8:
    """(16,) the levels, ascending, 0 among them, of least error.

    Args:
        moments: by `half_step_moments`.
        grouped: whether row m of the declared group table stands for multiplier m; one end is then 127 or -127.
    """
    rows = [np.rint(m * _POSITIONS / MULTIPLIERS).astype(np.intp) for m in range(1, MULTIPLIERS + 1)]
    first, between, last = _path_costs(moments, rows if grouped else [_POSITIONS])
    between[:_TOP, _TOP + 1 :] = np.inf  # 0 is a level: no step leads across it
    between[np.tril_indices(len(between))] = np.inf
    if not grouped:
        return _shortest(first, between, last)[0]
    closed = np.full(len(first), np.inf)
    to_top, from_bottom = closed.copy(), closed.copy()
    to_top[-1], from_bottom[0] = last[-1], first[0]
    found = (_shortest(first, between, to_top), _shortest(from_bottom, between, last))
    return min(found, key=lambda f: f[1])[0]


def _path_costs(moments: F64, rows: Sequence[NDArray[np.intp]]) -> tuple[F64, F64, F64]:
    """Cost of what lies below a first level, between two neighbouring ones, above a last one: (P,), (P, P), (P,)."""
    count = len(_POSITIONS)
    first, between, last = np.zeros(count), np.zeros((count, count)), np.zeros(count)
    for moment, levels in zip(moments, rows, strict=True):
        if not moment[0].any():
            continue
        zeroth, one, two = np.concatenate([np.zeros((3, 1)), np.cumsum(moment, axis=1)], axis=1)
        v = levels.astype(np.float64)
        at = 2 * levels + _EDGE
        below = two[at] - 2 * v * one[at] + v * v * zeroth[at]  # of everything below a level, at it
        first += below
        last += two[-1] - 2 * v * one[-1] + v * v * zeroth[-1] - below
        # Up to the middle at the lower level, from there at the higher one.
        middle = levels[:, None] + (levels + _EDGE)
        square = v * v
        between += (square[:, None] - square) * np.take(zeroth, middle)
        between -= (2 * v[:, None] - 2 * v) * np.take(one, middle)
        between += below - below[:, None]
    return first, between, last


def _shortest(first: F64, between: F64, last: F64) -> tuple[I8, float]:
    """The levels of the cheapest path of 16 positions, and what it costs."""
    cost, came = first, []
    for _ in range(_LEVELS - 1):
        through = cost[:, None] + between
        came.append(through.argmin(axis=0))
        cost = through[came[-1], np.arange(len(cost))]
    total = cost + last
    at = int(total.argmin())
    path = [at]
    for previous in reversed(came):
        path.append(int(previous[path[-1]]))
    return _POSITIONS[path[::-1]].astype(np.int8), float(total[at])


def _starting_table(name: str) -> LearnedTable:
    """The int8 image of a format as a learned table: for posit4 and fixp4 it gives the same codes as they do."""
    image = resolve(name).image()
    assert image is not None
    return LearnedTable.from_levels(image)


def _quantile_table(x: F32) -> LearnedTable:
    """Levels at even quantiles of |x|^(1/3) of each sign, where optimal levels lie for many of them; 0 between."""
    magnitude = np.sort(np.abs(x).reshape(-1))
    top = float(magnitude[-1])
    if top == 0:
        return _starting_table("nf4")
    compressed = np.quantile(np.cbrt(magnitude), (np.arange(8) + 0.5) / 8) ** 3
    levels = np.unique(np.clip(np.rint(compressed * _TOP / top), 1, _TOP).astype(np.int64))
    missing = np.setdiff1d(np.arange(1, _TOP + 1), levels)[: 8 - len(levels)]
    positive = np.sort(np.concatenate([levels, missing]))
    return LearnedTable.from_levels(np.concatenate([-positive[:7][::-1], [0], positive]).astype(np.int8))
