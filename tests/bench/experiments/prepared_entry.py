"""One network, many roundings: its first passes are run once, each tail of passes on a copy."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from lpcompile import registry
from lpcompile.assignment.layer_facts import layer_facts
from lpcompile.passes.input_metrics import input_metrics
from lpcompile.pipeline import Pass, Pipeline
from lpcompile.plan import Kernel
from lpcompile.prepared import Preparation
from lpcompile.progress import no_progress
from lpcompile.quant.input_metric import InputMetric
from lpcompile.records import PassReport
from lpcompile.target import Options
from tests.bench.experiments.entry_figures import THREADS, EntryFigures
from tests.zoo.entries import Feeds, Zoo

FOLDS = "widen-float16, fold-constants, canonicalize, fold-batchnorm"
SHARE = 0.875  # of the calibration samples, in a draw


@dataclass(frozen=True)
class Made:
    """A network after one tail.

    Attributes:
        proto: what ONNX Runtime runs.
        reports: of the passes of the tail.
        bits: stored bits a weight, scales and all.
        seconds: that the tail took.
    """

    proto: onnx.ModelProto
    reports: tuple[PassReport, ...]
    bits: float
    seconds: float


class PreparedEntry(EntryFigures):
    """A zoo entry after the first passes of a pipeline; moments of inputs are gathered once for all tails.

    Args:
        zoo: where it is from.
        entry: its name.
        head: text of the passes that are run once.
        rounding: text of the pass that stands for those of the tails where kernels are chosen.
        samples: of the calibration set.
        seed: of every random choice.
    """

    def __init__(
        self, zoo: Zoo, entry: str, head: str, rounding: str, samples: Feeds, *, seed: int = 0
    ) -> None:
        super().__init__(zoo, entry)
        self.settled = _settled(onnx.load(zoo.model(entry), load_external_data=False), samples)
        values = {v.name: float(samples[v.name][0]) for v in self.settled}
        self.options = Options(passes=f"{head}, {rounding}", seed=seed, threads=THREADS, input_values=values)
        prepared = Preparation("ort", self.options, no_progress).of(zoo.model(entry), samples)
        self.graph, self.context, self.target = prepared.graph, prepared.context, prepared.target
        Pipeline(prepared.passes[: len(passes_of(head))]).run(self.graph, self.context)

    def metrics(self) -> Mapping[str, InputMetric]:
        """Of the rounding errors of all layers that are not to stay float."""
        planned = self.graph.plan.layers
        return input_metrics(
            self.graph, self.context, [n for n, p in planned.items() if p.kernel is not Kernel.FLOAT]
        )

    def made(self, tail: Sequence[Pass], metrics: Mapping[str, InputMetric] | None = None) -> Made:
        """Round and emit.

        Args:
            tail: passes after the head.
            metrics: of rounding errors by layer; None: the layers' own.
        """
        graph = self.graph.copy()
        context = replace(self.context, rounded={}, warnings=[])
        if metrics is not None:
            context = replace(context, metrics=dict(metrics))
        start = time.perf_counter()
        reports = Pipeline(tuple(tail), frozenset(graph.facts)).run(graph, context)
        seconds = time.perf_counter() - start
        emitted = self.target.emit(graph, self.options)
        emitted.model.graph.input.extend(self.settled)  # what scores feeds it as ever
        weights = sum(layer_facts(n).weights for n in graph.layers())
        bits = 8 * sum(emitted.weight_bytes.values()) / max(1, weights)
        return Made(emitted.model, tuple(reports), bits, seconds)


def _settled(model: onnx.ModelProto, samples: Feeds) -> list[onnx.ValueInfoProto]:
    """Inputs that are one number, the same in all samples: branches may hang on them, whose layers then are none."""
    shapes = {v.name: v.type.tensor_type.shape for v in model.graph.input}
    return [v for v in model.graph.input if not shapes[v.name].dim and len(np.unique(samples[v.name])) == 1]


def passes_of(text: str) -> list[Pass]:
    """Configured passes of a pipeline's text."""
    return [registry.pass_class(n).configured(options) for n, options in registry.split_pipeline(text)]


def draws(samples: Feeds, count: int) -> Iterator[Feeds]:
    """The samples alone, or as many random selections of most of them, in their order."""
    size = len(next(iter(samples.values())))
    for draw in range(count):
        rng = np.random.default_rng(draw)
        kept = np.sort(rng.choice(size, max(1, round(SHARE * size)), replace=False))
        yield {k: v[kept] for k, v in samples.items()} if count > 1 else samples
