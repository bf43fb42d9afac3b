"""What a compiled zoo entry does on evaluation samples: score, and SQNR of outputs and of logits."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from tests.support import Array
from tests.zoo.entries import Zoo, session

_LEAST = 1e-7  # probability; a softmax in float32 may give 0
THREADS = 1  # several experiments share a machine


@dataclass(frozen=True)
class Figures:
    """What an assignment does on the evaluation set.

    Attributes:
        score: the entry's own metric.
        sqnr_db: of the first output against float.
        right: of each sample, where the metric is top-1; else None.
        divergence: of the classes from the float model's, nats a sample, where the metric is top-1; else None.
    """

    score: float
    sqnr_db: float
    right: Array | None
    divergence: float | None = None


class EntryFigures:
    """Measures models that were made of one zoo entry.

    Args:
        zoo: where it is from.
        entry: its name.
    """

    def __init__(self, zoo: Zoo, entry: str) -> None:
        self.zoo, self.entry = zoo, entry

    @cached_property
    def top1(self) -> bool:
        """Whether the metric is top-1, so that samples can be paired."""
        return bool(self.zoo.entries[self.entry]["metric"] == "top1")

    def figures(self, proto: onnx.ModelProto, limit: int | None = None) -> Figures:
        """Score and SQNR on the first samples of the evaluation set; of top-1 entries in one sweep."""
        if not self.top1:
            return Figures(self.score(proto, limit), self.sqnr_db(proto, limit or 64), None)
        return self._of_classes(self._outputs(_bytes(proto), self._reference(limit)[0]), limit)

    def float_figures(self, limit: int | None = None) -> Figures:
        """Of the float model on the same samples."""
        if not self.top1:
            return self.figures(onnx.load(self.zoo.model(self.entry)), limit)
        return self._of_classes(self._reference(limit)[1], limit)

    def _of_classes(self, found: Array, limit: int | None) -> Figures:
        data, reference = self._reference(limit)
        signal, noise = np.square(reference).sum(), np.square(reference - found).sum()
        offset = self.zoo.entries[self.entry].get("class_offset", 0)
        right = found.reshape(len(found), -1).argmax(1) - offset == data["y"]
        ratio = 10 * math.log10(signal / noise) if noise > 0 else math.inf
        return Figures(float(right.mean()), ratio, right, _divergence(reference, found))

    def score(self, proto: onnx.ModelProto, limit: int | None = None) -> float:
        """The entry's own metric."""
        entry = self.zoo.entries[self.entry]
        rule = self.zoo.evaluate.METRICS[entry["metric"]]
        return float(rule(session(_bytes(proto), THREADS), entry, self.zoo.data(self.entry, limit)))

    def sqnr_db(self, proto: onnx.ModelProto, samples: int = 64) -> float:
        """Of the first output over evaluation samples, as the zoo defines it."""
        assert self.zoo.prepare, "evaluate imports it when it is called"
        ours, theirs = (session(m, THREADS) for m in (_bytes(proto), self.zoo.model(self.entry)))
        entry = self.zoo.entries[self.entry]
        return float(self.zoo.evaluate.sqnr(ours, theirs, entry, self.zoo.root, samples))

    def logits_db(self, proto: onnx.ModelProto, samples: int = 64) -> float | None:
        """SQNR of what the last softmax reads, less the mean over classes; None where the output has none."""
        found = (_logits_first(p) for p in (onnx.load(self.zoo.model(self.entry)), proto))
        models = [m for m in found if m is not None]
        if len(models) < 2:
            return None
        data = self.zoo.data(self.entry, samples)
        a, b = (
            x.reshape(-1, x.shape[-1]) - x.reshape(-1, x.shape[-1]).mean(-1, keepdims=True)
            for x in (self._outputs(_bytes(m), data) for m in models)
        )
        noise = np.square(a - b).sum()
        return 10 * math.log10(np.square(a).sum() / noise) if noise > 0 else math.inf

    def _reference(self, limit: int | None) -> tuple[Any, Array]:
        if limit not in self._held:
            data = self.zoo.data(self.entry, limit)
            self._held[limit] = (data, self._outputs(self.zoo.model(self.entry), data))
        return self._held[limit]

    @cached_property
    def _held(self) -> dict[int | None, tuple[Any, Array]]:
        return {}

    def _outputs(self, model: Any, data: Any) -> Array:
        entry = self.zoo.entries[self.entry]
        parts = [o[0] for o in self.zoo.evaluate.batches(session(model, THREADS), entry, data["x"])]
        return np.concatenate(parts).astype(np.float64)


def _logits_first(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the input of the Softmax behind its first output as its first output."""
    last = proto.graph.output[0].name
    node = next((n for n in proto.graph.node if last in n.output), None)
    if node is None or node.op_type != "Softmax":
        return None
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    rest = list(made.graph.output)
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    made.graph.output.extend(rest)
    return made


def _divergence(reference: Array, found: Array) -> float:
    """KL of the classes, mean over samples."""
    p, q = (_log_classes(y.reshape(len(y), -1)) for y in (reference, found))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _log_classes(y: Array) -> Array:
    """Log-probabilities of logits, or of what a softmax made of them."""
    if (y >= 0).all() and np.allclose(y.sum(1), 1, atol=1e-2):
        y = np.log(np.maximum(y, _LEAST))
    y = y - y.max(1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(1, keepdims=True)))


def _bytes(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))
