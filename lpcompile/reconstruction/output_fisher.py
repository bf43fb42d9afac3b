"""How much the model's outputs mind an error of each number that a block puts out.

F_i = E[g_i^2], g the gradient of a random functional of the outputs at the block's output: the diagonal of the
Gauss-Newton matrix J^T J of the outputs, of every sample by itself. [li2021, sec. 3, with the outputs in place of the
labels' loss]
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.call_sizes import with_sizes_of
from lpcompile.analysis.gradients import Samples, Sweep, choose_head
from lpcompile.autodiff.losses import add_loss
from lpcompile.autodiff.reverse import add_gradients
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph

DRAWS = 4
AHEAD_BYTES = 256 << 20  # of weights for blocks to come, which share a sweep
FLOOR = 0.05  # of the mean: a number that no draw looked at still counts


class OutputFisher:
    """The weights of errors at tensors of a model.

    Args:
        graph: the float graph; it is not changed.
        tensors: those that may be asked for.
        observe: opens a graph.
        calls: of the model.
        per_sample: the first axis of tensors counts samples that do not touch.
        seed: of the random functionals.

    Raises:
        GradientError: an operator between the tensors and the outputs has no gradient, or no output holds floats.
    """

    def __init__(
        self,
        graph: LpGraph,
        tensors: Sequence[str],
        observe: ObserveGraph,
        calls: Sequence[Feeds],
        *,
        per_sample: bool,
        seed: int,
    ) -> None:
        self._graph, self._observe, self._seed = graph, observe, seed
        self._per_sample = per_sample
        head = choose_head(graph, "logits", observe, Samples(calls, per_sample))
        self._made = with_sizes_of(calls, graph)
        self._losses = [
            add_loss(self._made, head.kind, head.tensors, scales=head.scales, prefix=f"loss{i}")
            for i in range(DRAWS)
        ]
        found = [
            add_gradients(self._made, loss.seeds, tensors, prefix=f"gradient{i}")
            for i, loss in enumerate(self._losses)
        ]
        self._bytes = {t: v.nbytes for t, v in observe(graph, tensors)(calls[0]).items()}
        self._ahead: dict[str, list[F32]] = {}  # of tensors that were not asked for yet
        self._calls: Sequence[Feeds] = ()
        self._gradients = {t: [g.name for f in found if (g := f[t]) is not None] for t in tensors}

    def weights_at(self, tensors: Sequence[str]) -> Callable[[Sequence[Feeds]], list[dict[str, F32]]]:
        """For calls, what errors at tensors are multiplied by in each: sqrt(F) with a mean square of 1.

        Tensors that no output depends on smoothly are missing.
        """
        return lambda calls: self._kept(tensors, calls)

    def _kept(self, tensors: Sequence[str], calls: Sequence[Feeds]) -> list[dict[str, F32]]:
        """From the sweep before, or from one that takes as many of the next tensors along as memory allows."""
        if calls is not self._calls or any(t not in self._ahead for t in tensors):
            order = list(self._gradients)
            taken = list(tensors)
            room = AHEAD_BYTES // max(1, len(calls)) - sum(self._bytes[t] for t in taken)
            for t in order[max(order.index(t) for t in tensors) + 1 :]:
                room -= self._bytes[t]
                if room < 0:
                    break
                taken.append(t)
            rows = self._weights(taken, calls)
            self._calls = calls
            self._ahead = {t: [row[t] for row in rows] for t in taken if t in rows[0]}
        found = [self._ahead.pop(t, None) for t in tensors]
        return [
            {t: column[i] for t, column in zip(tensors, found, strict=True) if column is not None}
            for i in range(len(calls))
        ]

    def _weights(self, tensors: Sequence[str], calls: Sequence[Feeds]) -> list[dict[str, F32]]:
        wanted = [name for t in tensors for name in self._gradients[t]]
        if not wanted:
            return [{} for _ in calls]
        samples = Samples(calls, self._per_sample)
        sweep = Sweep(self._graph, self._made, self._losses, wanted, self._observe, samples, self._seed)
        found: list[dict[str, F32]] = []
        for _, values in sweep.runs(DRAWS):
            squares = {t: [np.square(values[g]) for g in self._gradients[t]] for t in tensors}
            found.append({t: np.asarray(sum(s), np.float32) for t, s in squares.items() if s})
        return _normalised(found, tensors)


def _normalised(found: list[dict[str, F32]], tensors: Sequence[str]) -> list[dict[str, F32]]:
    """Square roots, with a mean square of 1 over all calls, floor included."""
    means: Mapping[str, float] = {
        t: float(np.mean([row[t].mean(dtype=np.float64) if row[t].size else 0.0 for row in found]))
        for t in tensors
        if t in found[0]
    }
    for row in found:
        for t, mean in means.items():
            if mean > 0 and np.isfinite(mean):
                row[t] /= np.float32(mean)
                row[t] += np.float32(FLOOR)
                row[t] /= np.float32(1 + FLOOR)
                np.sqrt(row[t], out=row[t])
            else:
                row[t] = np.ones_like(row[t])
    return found
