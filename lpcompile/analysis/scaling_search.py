"""Factors s for the channels that some layers read, x_c / s_c and w_c s_c, by the error at the outputs of these layers.

    loss(s) = sum over readers of (tr(E C E^T) + sum_c n_c |w_c s_c|^2) / tr(W C W^T)

with E = Q(W s) / s - W the error of the weights in their planned format, nearest codes, C the covariance of the inputs
(means are corrected in the bias; where codes are to be chosen one after the other, what each input does not share with
those after it, on the diagonal), and n_c the noise of rounding x_c / s_c as the planned kernel rounds it. Tried are

    s_c = max|x_c|^a            [xiao2023, sec. 4: half of the way for a = 1/2]
    s_c = mean|x_c|^a           [lin2024, sec. 3.2]
    s_c = max|x_c|^a / max|w_c|^(1 - a)        [xiao2023, sec. 4]
    s_c = 1 / max|w_c|^a        [nagel2019, sec. 4.1: rows before it have scales of their own]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lpcompile.analysis.channel_samples import ChannelSample
from lpcompile.analysis.grams import Gram
from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.ir.factor_flow import Index
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.quant.codebook_search import Fitting

LEAST_FACTOR = 1 / 16  # a channel that was silent on the samples may speak later
MOST_ROWS = 128  # of a layer's weights take part: half of them choose, the others confirm
HALF = 0.5  # of the way on a log scale is tried first, then half and one and a half of that
CLIPS = (1.0, 0.85, 0.7, 0.55, 0.4)  # of the range, where steps are few
BLOCK = 32  # inputs of one range in a packed kernel
DAMPING = 0.01
TOGETHER = 1024  # inputs whose covariance is decomposed; of more, some at a time
MARGIN = 1.5  # between what was seen and a bound that must not be met
GAIN_DB = 0.1  # less is noise
ALL, CHOOSING, CONFIRMING = "all", "choosing", "confirming"  # outputs
_ROWS = {ALL: slice(None), CHOOSING: slice(0, None, 2), CONFIRMING: slice(1, None, 2)}


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads scaled channels.

    Attributes:
        rows: (R, K) weights, some of its rows.
        groups: (R,) group of a convolution that each row belongs to.
        index: (C,) factor of each channel.
        gram: of its inputs.
        sample: of its input tensor.
        kernel: how it is planned to run.
        levels: of its activations where these are static.
        weight: how its weights are planned to be stored.
        centred: whether the mean of its errors is taken out of a bias later.
    """

    rows: F32
    groups: Index
    index: Index
    gram: Gram
    sample: ChannelSample
    kernel: Kernel
    levels: int
    weight: WeightPlan
    centred: bool = True

    @cached_property
    def covariance(self) -> F32:
        """C, (G, K, K)."""
        mean = self.gram.mean * self.centred
        return np.asarray(self.gram.matrix - mean[:, :, None] * mean[:, None], np.float32)

    @cached_property
    def unforeseen(self) -> F64:
        """Variance of each input that those after it do not tell, (G, K): what rounding one by one cannot pass on."""
        return np.concatenate(
            [
                _unforeseen(self.covariance[:, at : at + TOGETHER, at : at + TOGETHER].astype(np.float64))
                for at in range(0, self.rows.shape[1], TOGETHER)
            ],
            axis=1,
        )

    def loss(self, s: F64, of: str = ALL) -> float:
        """Noise over signal at some of its outputs for factors s, (factors,)."""
        power = self.power(of)
        if power <= 0 or self.kernel is Kernel.FLOAT:
            return 0.0
        by_channel = s[self.index]  # (C,)
        return (self._weight_noise(by_channel, of) + self._activation_noise(by_channel, of)) / power

    def input_noise(self, s: F64) -> float:
        """Noise at its outputs of rounding its inputs alone, for factors s, (factors,)."""
        return self._activation_noise(s[self.index])

    def power(self, of: str = ALL) -> float:
        """Signal at some of its outputs."""
        return self._powers[of]

    @cached_property
    def _powers(self) -> dict[str, float]:
        return {of: self._output_power(self.rows[at], self.groups[at]) for of, at in _ROWS.items()}

    @cached_property
    def _gains(self) -> dict[str, F64]:
        """Power that noise of each channel has at some outputs, (C,)."""
        taps, gains = self._taps(), dict[str, F64]()
        for of, at in _ROWS.items():
            squares = np.zeros((self.gram.matrix.shape[0], self.rows.shape[1]))
            np.add.at(squares, self.groups[at], np.square(self.rows[at], dtype=np.float64))
            gains[of] = squares.reshape(-1, taps).sum(1)
        return gains

    @property
    def largest_weights(self) -> F64:
        """Max |w_c| of the channels, (C,)."""
        taps, groups = self._taps(), self.gram.matrix.shape[0]
        by_row = np.abs(self.rows).reshape(len(self.rows), -1, taps).max(2)  # (R, C / G)
        largest = np.zeros((groups, by_row.shape[1]))
        np.maximum.at(largest, self.groups, by_row)
        return largest.reshape(-1)

    def _taps(self) -> int:
        return int(self.rows.shape[1] * self.gram.matrix.shape[0] // len(self.index))

    def _spread(self, by_channel: F64, groups: Index) -> F64:
        """A number of each channel beside each weight of rows, (R, K)."""
        per_group = np.repeat(by_channel, self._taps()).reshape(self.gram.matrix.shape[0], -1)
        return per_group[groups]

    def _output_power(self, rows: F32 | F64, groups: Index) -> float:
        total = 0.0
        for g in np.unique(groups):
            part = rows[groups == g].astype(np.float32)
            total += float(np.einsum("rk,rk->", part @ self.covariance[g], part, dtype=np.float64))
        return total

    def _weight_noise(self, by_channel: F64, of: str) -> float:
        rows, groups = self.rows[_ROWS[of]], self.groups[_ROWS[of]]
        scale = self._spread(by_channel, groups)
        scaled = np.ascontiguousarray(rows * scale, np.float32)
        grouped = self.weight.granularity.startswith("group")
        moments = np.diagonal(self.gram.matrix, axis1=1, axis2=2)[groups] / scale**2
        fitting = Fitting(
            granularity="group" if grouped else self.weight.granularity,
            group_size=int(self.weight.granularity.removeprefix("group")) if grouped else 0,
            rule=self.weight.scale_rule,
            scale_format=self.weight.scale_format,
            importance=np.asarray(moments.mean(0), np.float32),
            min_scale=None,
        )
        rounded = fitting.fit(scaled, resolve(self.weight.format)).dequantize()
        error = rounded / scale - rows
        if self.weight.rounding == "nearest" or (self.weight.rounding == "kernel-sums" and self._taps() == 1):
            return self._output_power(error, groups)
        return float((error**2 * self.unforeseen[groups]).sum())

    def _activation_noise(self, by_channel: F64, of: str = ALL) -> float:
        if self.kernel is Kernel.WEIGHT_ONLY:
            return 0.0
        gain = self._gains[of] * by_channel**2  # (C,)
        x = self.sample.values / by_channel.astype(np.float32)[:, None]
        if self.kernel is Kernel.NBITS:
            return float(gain @ _block_noise(x))
        low, high = (
            (self.sample.low / by_channel).min(initial=0),
            (self.sample.high / by_channel).max(initial=0),
        )
        if self.levels == 256 or self.kernel is Kernel.DYNAMIC:
            return float(gain @ _range_noise(x, low, high, 256))
        tried = [_range_noise(x, c * low, c * high, self.levels) for c in CLIPS]
        return float(
            gain @ min(tried, key=lambda noise: float(noise.sum()))
        )  # ranges know nothing of the gain


def _unforeseen(covariance: F64) -> F64:
    k = covariance.shape[1]
    mean = np.einsum("gkk->g", covariance) / k
    damped = covariance + DAMPING * np.maximum(mean, np.finfo(np.float32).tiny)[:, None, None] * np.eye(k)
    reverse = np.linalg.cholesky(damped[:, ::-1, ::-1])
    return np.asarray(np.einsum("gkk->gk", reverse)[:, ::-1] ** 2)


def _range_noise(x: F32, low: float, high: float, levels: int) -> F64:
    """E[(Q(x_c) - x_c)^2], (C,), on one grid from low to high, 0 among its points."""
    spacing = (high - low) / (levels - 1)
    step = np.float32(spacing)
    # subnormal steps lose their digits, and values divided by them overflow
    if not step >= np.finfo(np.float32).tiny:
        return _mean_squares(x)
    zero = np.rint(-low / spacing)
    codes = x / step
    np.clip(np.rint(codes, out=codes), np.float32(-zero), np.float32(levels - 1 - zero), out=codes)
    codes *= step
    return _mean_squares(np.subtract(codes, x, out=codes))


def _mean_squares(x: F32) -> F64:
    return np.asarray((x[:, None] @ x[:, :, None]).reshape(-1).astype(np.float64) / max(1, x.shape[1]))


def _block_noise(x: F32) -> F64:
    """The same on one symmetric grid of 8 bits for each run of BLOCK channels at each position."""
    channels, positions = x.shape
    padded = np.zeros((-(-channels // BLOCK) * BLOCK, positions))
    padded[:channels] = x
    blocks = padded.reshape(-1, BLOCK, positions)
    step = np.maximum(np.abs(blocks).max(1, keepdims=True) / 127, np.finfo(np.float32).tiny)
    noise = ((np.rint(blocks / step) * step - blocks) ** 2).mean(2)
    return np.asarray(noise.reshape(-1)[:channels])


@dataclass(frozen=True, slots=True)
class Found:
    """Factors that were chosen.

    Attributes:
        factors: (factors,), factor 0 being 1.
        rule: how they were made, for the report.
        gain_db: by how much the loss falls.
    """

    factors: F64
    rule: str
    gain_db: float


def search(
    readers: Sequence[Reader], size: int, limits: Sequence[tuple[Index, ChannelSample, float]] = ()
) -> Found | None:
    """The factors of least loss at half of the outputs; None where at the others they are not GAIN_DB better than 1.

    What rounding happens to do to a few weights would else be taken for a gain.

    Args:
        readers: every layer that reads the channels.
        size: how many factors, factor 0 among them.
        limits: factors of channels, what was seen of them, and the bound that they are clipped to.
    """
    losses: dict[tuple[str, float], float] = {}
    tried: dict[tuple[str, float], F64] = {}
    extents = _extents(readers, size)

    def attempt(rule: str, power: float) -> None:
        tried[rule, power] = _bounded(_RULES[rule](power, *extents), limits)
        losses[rule, power] = sum(r.loss(tried[rule, power], CHOOSING) for r in readers)

    for rule in _RULES:
        attempt(rule, HALF)
    best = min(losses, key=losses.__getitem__)
    for power in (HALF / 2, 1.5 * HALF):
        attempt(best[0], power)
    best = min(losses, key=losses.__getitem__)
    now, then = (sum(r.loss(s, CONFIRMING) for r in readers) for s in (np.ones(size), tried[best]))
    if not now > 0:
        return None
    gain = float(10 * np.log10(now / max(then, np.finfo(float).tiny)))
    name = best[0].replace("^a", f"^{best[1]:g}").replace("^b", f"^{1 - best[1]:g}")
    return Found(tried[best], name, gain) if gain > GAIN_DB else None


def _extents(readers: Sequence[Reader], size: int) -> tuple[F64, F64, F64]:
    """max|x|, mean|x| and max|w| (of each layer, the largest being 1) that go with each factor, (factors,)."""
    largest, mean, weight = (np.zeros(size) for _ in range(3))
    for r in readers:
        np.maximum.at(largest, r.index, r.sample.largest)
        np.maximum.at(mean, r.index, r.sample.mean_magnitude)
        w = r.largest_weights
        np.maximum.at(weight, r.index, w / max(w.max(initial=0), np.finfo(float).tiny))
    return largest, mean, np.maximum(weight, LEAST_FACTOR)


_RULES: dict[str, Callable[[float, F64, F64, F64], F64]] = {
    "max|x|^a": lambda a, largest, mean, weight: largest**a,
    "mean|x|^a": lambda a, largest, mean, weight: mean**a,
    "max|x|^a / max|w|^b": lambda a, largest, mean, weight: largest**a / weight ** (1 - a),
    "1 / max|w|^a": lambda a, largest, mean, weight: weight**-a,
}


def _bounded(s: F64, limits: Sequence[tuple[Index, ChannelSample, float]]) -> F64:
    """At most 1, at least LEAST_FACTOR, factor 0 at 1, and nothing that was seen beyond a bound."""
    s = np.maximum(s / max(s[1:].max(initial=0), np.finfo(float).tiny), LEAST_FACTOR)
    s[0] = 1
    for index, sample, bound in limits:
        least = np.zeros_like(s)
        np.maximum.at(least, index, MARGIN * sample.peak / bound)
        s = np.where(least > 1, 1.0, np.maximum(s, least))
    return s
