"""S4: what is lost when one layer, or one activation, is quantised and everything else stays float; by running it.

Of every sample: KL(float || changed) in nats over the class axis of each classifying output (summed over tokens), the
noise power |y - y0|^2 / mean |y0|^2 of the float outputs (1/SQNR, the mean over outputs), and with labels the rise of
the cross-entropy. Weights are patched in one session; an activation is quantised where the input `chosen` says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.analysis.classes import class_axis, divergence, log_probabilities
from lpcompile.analysis.own_weights import with_own_weights
from lpcompile.analysis.rounded_activations import ranges_of, round_if
from lpcompile.analysis.scores import F64, Score, concatenated
from lpcompile.errors import CalibrationError, ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan

Progress = Callable[[int, int], None]
LEAST_OPSET_OF_FAKE_QUANT = 13


class Patched(Protocol):
    """A loaded graph whose weights can be exchanged; see `runtime.patched`."""

    def patch(self, name: str, array: NDArray[Any]) -> None:
        """Give a weight other values."""

    def restore(self, name: str) -> None:
        """Give it its own values again."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
        """The outputs of one call."""


OpenPatched = Callable[
    [LpGraph, Sequence[str], Sequence[str]], Patched
]  # (graph, weights to be patched, outputs)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one change costs.

    Attributes:
        kl: nats a sample; None where no output has classes.
        noise: noise power over signal power of the outputs.
        loss: rise of the cross-entropy a sample; None without labels.
    """

    kl: Score | None
    noise: Score
    loss: Score | None


class Judge:
    """Float outputs of every call, and how far others are from them.

    Args:
        run: the float model.
        calls: judged calls.
        outputs: names of the float outputs.
        labels: of each call, of the shape of the first classifying output without its class axis.
        per_sample: the first axis of outputs counts samples; else a call is one.
        logits: outputs are logits, whose mean over the classes is no noise.

    Attributes:
        outputs: names of the float outputs.

    Raises:
        CalibrationError: a label is missing or no class.
    """

    def __init__(
        self,
        run: RunFeeds,
        calls: Sequence[Feeds],
        outputs: Sequence[str],
        *,
        labels: Sequence[NDArray[np.int64]] | None = None,
        per_sample: bool = True,
        logits: bool = False,
    ) -> None:
        self.calls, self.per_sample, self._logits = calls, per_sample, logits
        self.outputs = list(outputs)
        self._float = [run(call) for call in calls]
        self._labels = labels
        self._power = {
            o: float(np.mean(concatenated([self._rows(self._power_of(_finite(y[o]))) for y in self._float])))
            for o in outputs
        }
        self._classes = [
            o
            for o in outputs
            if class_axis(self._float[0][o]) is not None and all(np.isfinite(y[o]).all() for y in self._float)
        ]
        if labels is not None:
            if not self._classes:
                raise CalibrationError("labels, but no output gives classes", hint="leave the labels out")
            for y, label in zip(self._float, labels, strict=True):
                check_labels(label, _classes_last(y[self._classes[0]]).shape)

    def measure(self, run: RunFeeds) -> Measured:
        """Run all calls and compare."""
        terms: dict[str, list[F64]] = {"kl": [], "noise": [], "loss": []}
        for i, call in enumerate(self.calls):
            base = self._float[i]
            found = _comparable(base, run(call))
            terms["noise"].append(self._noise(base, found).mean(1))
            if self._classes:
                pairs = [(_classes_last(base[o]), _classes_last(found[o])) for o in self._classes]
                terms["kl"].append(np.sum([self._rows(divergence(a, b)) for a, b in pairs], axis=0))
                if self._labels is not None:
                    terms["loss"].append(self._rows(_cross_entropy(*pairs[0], self._labels[i])))
        scores = {k: Score.of_terms(concatenated(v)[:, None]) for k, v in terms.items() if v}
        return Measured(scores.get("kl"), scores["noise"], scores.get("loss"))

    def noise_terms(self, run: RunFeeds, enough: Callable[[F64], bool] | None = None) -> F64:
        """Noise power over signal power of every sample (or call), the mean over outputs.

        Args:
            run: the other model.
            enough: asked after every call with the terms so far; the calls after it says so are left out.
        """
        terms: list[F64] = []
        for i, call in enumerate(self.calls):
            terms.append(self._noise_of_call(i, run(call)).mean(1))
            if enough is not None and enough(concatenated(terms)):
                break
        return concatenated(terms)

    def noise_by_output(self, run: RunFeeds) -> F64:
        """The same of each output, the mean over samples (or calls), (O,)."""
        terms = [self._noise_of_call(i, run(call)) for i, call in enumerate(self.calls)]
        return np.asarray(concatenated(terms).mean(0))

    def _noise_of_call(self, i: int, found: Feeds) -> F64:
        return self._noise(self._float[i], _comparable(self._float[i], {o: found[o] for o in self.outputs}))

    def _noise(self, base: Feeds, found: Feeds) -> F64:
        """Of every sample and output, (N, O)."""
        parts = []
        for o in self.outputs:
            gap = self._rows(self._power_of(_gap(base[o], found[o])))
            parts.append(gap / self._power[o] if self._power[o] > 0 else gap)
        return np.stack(parts, axis=1)

    def _power_of(self, x: NDArray[Any]) -> F64:
        wide = x.astype(np.float64)
        return np.square(wide - wide.mean(axis=-1, keepdims=True) if self._logits else wide)

    def _rows(self, x: F64) -> F64:
        """Sums of the samples of a call, (N,)."""
        return x.reshape(len(x), -1).sum(1) if self.per_sample and x.ndim else np.asarray([x.sum()])


def measure_weights(
    judge: Judge,
    graph: LpGraph,
    weights: Mapping[str, NDArray[np.float32]],
    open_patched: OpenPatched,
    progress: Progress | None = None,
) -> dict[str, Measured]:
    """Layer name -> what its other weights cost alone.

    Args:
        judge: of the float model.
        graph: the float graph.
        weights: layer name -> weights in place of its own, in their shape.
        open_patched: opens the graph for patching.
        progress: called with (done, total).
    """
    graph = with_own_weights(graph, weights)
    names = {layer: _weight_name(graph, layer) for layer in weights}
    model = open_patched(graph, list(names.values()), judge.outputs)
    found = {}
    for done, (layer, array) in enumerate(weights.items()):
        model.patch(names[layer], array)
        found[layer] = judge.measure(model.run)
        model.restore(names[layer])
        if progress is not None:
            progress(done + 1, len(weights))
    return found


def measure_activations(
    judge: Judge,
    graph: LpGraph,
    plans: Mapping[str, ActivationPlan],
    observe: ObserveGraph,
    outputs: Sequence[str],
    progress: Progress | None = None,
) -> dict[str, Measured]:
    """Tensor name -> what its quantisation costs alone, all in one session.

    Raises:
        ModelError: the graph's opset is too old.
    """
    changed, chosen = with_fake_quantisers(graph, plans)
    run = observe(changed, outputs)
    found = {}
    for i, name in enumerate(plans):
        found[name] = judge.measure(_choosing(run, chosen, i))
        if progress is not None:
            progress(i + 1, len(plans))
    return found


def _choosing(run: RunFeeds, name: str, index: int) -> RunFeeds:
    return lambda feeds: run({**feeds, name: np.asarray(index, np.int64)})


def with_fake_quantisers(graph: LpGraph, plans: Mapping[str, ActivationPlan]) -> tuple[LpGraph, str]:
    """A copy whose i-th planned tensor is rounded to its codes where the new int64 input `chosen` is i.

    An If a tensor: the branch that is not taken costs nothing. Graph outputs and control-flow bodies read floats.

    Returns:
        The copy, and the name of the input.
    """
    if graph.opset < LEAST_OPSET_OF_FAKE_QUANT:
        raise ModelError(
            f"opset {graph.opset} is too old to measure activations", hint="export with opset 13"
        )
    copy = graph.copy()
    chosen = copy.add_input(copy.fresh("chosen"), np.dtype(np.int64), ())
    for i, (name, plan) in enumerate(plans.items()):
        index = copy.constant(f"{name}/index", np.asarray(i, np.int64))
        condition = copy.add_node("Equal", [chosen, index], name=f"{name}/is_chosen").outputs[0]
        assert condition is not None
        numbers = [copy.constant(f"{name}/range", n) for n in ranges_of([plan])[0]]
        round_if(copy, copy.value(name), condition, numbers)
    return copy, chosen.name


def check_labels(labels: NDArray[Any], logits_shape: Sequence[int]) -> None:
    """Whether labels are one class of every row of logits.

    Raises:
        CalibrationError: they are not.
    """
    if labels.dtype.kind not in "iu":
        raise CalibrationError(f"labels are {labels.dtype}, not integers", hint="give class indices from 0")
    if labels.shape != tuple(logits_shape[:-1]):
        raise CalibrationError(
            f"labels of one call have shape {labels.shape}, its logits {tuple(logits_shape)}",
            hint="give one class index for each row of the output",
        )
    classes = logits_shape[-1]
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        raise CalibrationError(
            f"label {int(labels[bad][0])} is no class of 0..{classes - 1}",
            hint="count classes from 0, as the output does",
        )


def _finite(x: NDArray[Any]) -> F64:
    wide = x.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


def _comparable(base: Feeds, found: Feeds) -> Feeds:
    """Outputs; one whose length depends on data and came out another holds nothing."""
    return {
        k: v if k not in base or v.shape == base[k].shape else np.full(base[k].shape, np.nan)
        for k, v in found.items()
    }


def _gap(base: NDArray[Any], found: NDArray[Any]) -> F64:
    """How far found is from base; 0 where base is no number, all of base where only found is none."""
    return np.where(np.isfinite(base), _finite(found) - _finite(base), 0.0)


def _weight_name(graph: LpGraph, layer: str) -> str:
    weight = graph.node(layer).inputs[1]
    assert weight is not None
    return weight.name


def _classes_last(x: NDArray[Any]) -> F64:
    axis = class_axis(x)
    assert axis is not None
    return np.moveaxis(_finite(x), axis, -1)


def _cross_entropy(before: F64, after: F64, labels: NDArray[np.int64]) -> F64:
    rise = log_probabilities(before) - log_probabilities(after)
    return np.take_along_axis(rise, labels[..., None], -1)[..., 0]
