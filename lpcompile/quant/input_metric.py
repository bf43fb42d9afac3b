"""What the weights of a layer multiply, as rounding needs it: by how much each error of a row moves the output.

E|e x|^2 = e H e^T with H = E[x x^T]. Where the bias takes the mean of the error away, H is the covariance. The input's
own quantiser adds its noise to the diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lpcompile.formats.arrays import F32, F64
from lpcompile.quant.adaround import adaround
from lpcompile.quant.closed_form_scales import refined
from lpcompile.quant.coordinate_descent import SWEEPS, sweep
from lpcompile.quant.gptq import expected_errors, gptq_factored
from lpcompile.quant.gram_factor import DAMPING, GramFactor, factor
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index

ROUNDS = 2


@dataclass(frozen=True, eq=False)
class InputMetric:
    """The metric of a layer's rounding errors; layers that read alike share one.

    Attributes:
        matrix: H, (G, K, K); G = groups of a convolution, else 1.
        mean: E[x], (G, K).
        centred: whether H is the covariance: the layer's bias must then take the mean of the error.
        damping: added to the diagonal while codes are chosen, relative to its mean.
        step: of the input's quantiser, whose noise H holds; 0 where floats are read.
    """

    matrix: F32
    mean: F64
    centred: bool
    damping: float = DAMPING
    step: float = 0.0

    @classmethod
    def of(
        cls, moments: F32, mean: F64, *, centred: bool, step: float = 0.0, damping: float = DAMPING
    ) -> "InputMetric":
        """The metric of inputs.

        Args:
            moments: E[x x^T], (G, K, K).
            mean: E[x], (G, K).
            centred: whether the bias takes the mean of the error away.
            step: see the attribute.
            damping: see the attribute.
        """
        if not centred and not step:
            return cls(moments, mean, centred, damping)
        matrix = moments.astype(np.float64)
        if centred:
            matrix -= mean[:, :, None] * mean[:, None, :]
        at = np.arange(matrix.shape[1])
        matrix[:, at, at] = np.maximum(matrix[:, at, at], 0) + step**2 / 12
        largest = np.finfo(np.float32).max
        return cls(np.clip(matrix, -largest, largest).astype(np.float32), mean, centred, damping, step)

    def beside(self, others: Sequence["InputMetric"]) -> "InputMetric":
        """The mean of this metric and others of the same shape, by which codes for all of them are chosen.

        Means of inputs, which the bias makes up for, stay those of this one.
        """
        if not others:
            return self
        every = [self, *(o for o in others if o.matrix.shape == self.matrix.shape)]
        matrix = np.asarray(np.mean([m.matrix for m in every], axis=0, dtype=np.float64), np.float32)
        return replace(self, matrix=matrix, damping=max(m.damping for m in every))

    @cached_property
    def factors(self) -> GramFactor:
        """Of H, in the order of rounding."""
        return factor(self.matrix, self.damping)

    def let_go(self) -> None:
        """Forget the factors, which take as much memory as the matrix; they are made anew when they are asked for."""
        self.__dict__.pop("factors", None)

    @cached_property
    def _variances(self) -> F64:
        found = np.empty_like(self.factors.variances)
        np.put_along_axis(found, self.factors.order, self.factors.variances, axis=1)
        return found

    @cached_property
    def importance(self) -> F32:
        """(K,) by what scales are searched, mean 1: between the second moments and the variances left by later inputs.

        The variances are what errors cost once GPTQ has made up for what it can. By them alone, inputs that others tell
        on these samples are clipped, and on other samples that costs: the geometric mean of the two does as well on
        convolutions and 1.2 dB better on a transformer. Groups count by the shape of theirs, not by its size.
        """
        diagonal = np.diagonal(self.matrix, axis1=1, axis2=2)
        between = np.sqrt(np.maximum(diagonal, 0) * self._variances)
        mean = np.maximum(between.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return np.asarray((between / mean).mean(axis=0), np.float32)

    @property
    def variances(self) -> F32:
        """(K,) the same in units of the outputs, mean over groups."""
        return np.asarray(self._variances.mean(axis=0), np.float32)

    def row_variances(self, outputs: int) -> F32:
        """The same for each row of the weights, (C_out, K)."""
        return np.repeat(self._variances.astype(np.float32), outputs // len(self._variances), axis=0)

    @property
    def sizes(self) -> F32:
        """(K,) what errors of nearest codes cost where they do not correlate: the diagonal, mean over groups."""
        return np.asarray(np.diagonal(self.matrix, axis1=1, axis2=2).mean(axis=0), np.float32)

    def groups_of(self, channels: Index, outputs: int) -> Index:
        """(R,) the matrix of some of a layer's output channels."""
        return np.asarray(channels // (outputs // len(self.matrix)), np.intp)

    def row_means(self, outputs: int) -> F64:
        """E[x] for each row of the weights, (C_out, K)."""
        return np.repeat(self.mean, outputs // len(self.mean), axis=0)

    def rounded(
        self,
        rows: F32,
        tensor: QuantizedTensor,
        *,
        min_scale: F32 | None = None,
        rounds: int = ROUNDS,
        learned: bool = False,
        keeps_scales: bool = False,
    ) -> QuantizedTensor:
        """Codes by GPTQ, then sweeps over them and channel scales in turn, then AdaRound where it is wanted.

        Args:
            rows: (R, K) the real weights, all of the layer.
            tensor: format and scales.
            min_scale: (R,) as in `fit`.
            rounds: of sweeps and scales; 0: GPTQ alone, which tells formats apart as well.
            learned: AdaRound after them, kept row by row where it is better.
            keeps_scales: sweeps over codes alone.
        """
        found = gptq_factored(rows, tensor, self.factors)
        if keeps_scales and rounds:
            found = sweep(rows, found, self.matrix, sweeps=rounds * SWEEPS, damping=self.damping)
        elif rounds:
            found = refined(
                rows, found, self.matrix, rounds=rounds, damping=self.damping, min_scale=min_scale
            )
        return adaround(rows, found, self.matrix, damping=self.damping) if learned else found

    def expected(self, errors: F32, groups: Index) -> F32:
        """(R, K) errors as GPTQ would leave them, from those of nearest codes under the same scales.

        Args:
            errors: (R, K) of nearest codes.
            groups: (R,) as of `groups_of`.
        """
        return expected_errors(errors, self.factors, groups)

    def signal_and_noise(self, rows: F32, tensor: QuantizedTensor, step: float = 0.0) -> tuple[float, float]:
        """Power of the layer's outputs and of their errors, summed over channels.

        Args:
            rows: (R, K) the real weights, all of the layer.
            tensor: as they were rounded.
            step: of the input's quantiser, whose own error passes through the weights.
        """
        noise = float(row_losses(rows, tensor, self.matrix).sum())
        noise += step**2 / 12 * float(np.square(rows, dtype=np.float64).sum())
        w = rows.reshape(len(self.matrix), -1, rows.shape[1])
        power = float(np.sum((w @ self.matrix) * w, dtype=np.float64))
        if self.centred:
            power += float(np.square(np.einsum("grk,gk->gr", w, self.mean)).sum())
        return power, noise
