"""What retraining compares and with what: tensors of the float model, or labels; the losses are `autodiff.losses`.

`mse`            noise over signal: (y - t)^2 over the mean of t^2, of the logits where an output is a softmax
`kl`             divergence of the classes from the float model's [hinton2015]
`cross-entropy`  of the classes from labels
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.autodiff.losses import class_tensors, float_outputs, logits_of
from lpcompile.errors import CalibrationError, GradientError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph

LOSSES = ("auto", "kl", "mse", "kl-or-mse", "cross-entropy")
_KINDS = {"auto": "mse", "mse": "mse", "kl": "kl", "cross-entropy": "labels"}
_MOST_AXES = 3  # of logits: samples, positions, classes
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Compared:
    """Tensors under a loss.

    Attributes:
        kind: "mse", "kl" or "labels", as `autodiff.losses` calls it.
        tensors: their names.
    """

    kind: str
    tensors: tuple[str, ...]


def compared(graph: LpGraph, loss: str) -> Compared:
    """What is compared under a loss, one of LOSSES.

    "mse" takes every float output, before its softmax where it has one; "kl" every output with classes; "kl-or-mse"
    the first of these two that fits; "cross-entropy" the first output with classes. "auto" is "mse": of few samples,
    logits teach more than the probabilities of the likeliest classes. Measured with 160 samples, W4A8: output SQNR of
    ds_cnn with posit4 23.1 dB (kl: 19.6), top-1 of resnet20 with fixp4 0.803 (kl: 0.796).

    Raises:
        GradientError: no output fits.
    """
    if loss == "kl-or-mse":
        try:
            return compared(graph, "kl")
        except GradientError:
            return compared(graph, "mse")
    kind = _KINDS[loss]
    if kind == "mse":
        found = [logits_of(v) or v for v in float_outputs(graph)]
        if not found:
            raise GradientError(
                "no output holds floats", hint="there is nothing that retraining could compare"
            )
        return Compared(kind, tuple(dict.fromkeys(v.name for v in found)))
    found = class_tensors(graph, bare=True)
    for value in found:
        if value.shape is not None and len(value.shape) > _MOST_AXES:
            raise GradientError(
                f"the loss '{loss}' takes classes on the last axis of at most {_MOST_AXES}",
                where=value.name,
                hint="use the loss 'mse', which asks for nothing but a float output",
            )
    return Compared(kind, tuple(v.name for v in found[: 1 if kind == "labels" else None]))


def signal(outputs: Sequence[F32]) -> float:
    """Mean over calls of the sum of squares a tensor has in each."""
    return max(sum(float(np.vdot(y, y)) for y in outputs) / max(1, len(outputs)), _TINY)


def label_targets(outputs: Sequence[F32], labels: Sequence[np.ndarray], where: str) -> list[np.ndarray]:
    """The labels of each call as a loss head takes them, int64, in the shape of the logits without their last axis.

    Args:
        outputs: the float model's logits in each call.
        labels: class numbers of each call.
        where: names the samples, for messages.

    Raises:
        CalibrationError: no labels, another shape, no whole numbers, or out of range.
    """
    if len(labels) != len(outputs):
        raise CalibrationError(
            "the loss 'cross-entropy' needs labels, and the samples bring none",
            where=where,
            hint="add an array 'labels' to the samples, name another with --labels, or use the loss 'kl'",
        )
    made = []
    for output, given in zip(outputs, labels, strict=True):
        classes, shape = output.shape[-1], output.shape[:-1]
        found = np.asarray(given)
        if found.dtype.kind not in "iu" and not (found.dtype.kind == "f" and (found == np.rint(found)).all()):
            raise CalibrationError(
                f"labels are class numbers, not {found.dtype}", where=where, hint="give whole numbers from 0"
            )
        if found.size != int(np.prod(shape)):
            raise CalibrationError(
                f"labels of shape {found.shape} for an output of shape {output.shape}",
                where=where,
                hint="give one class number for each sample",
            )
        if found.size and (found.min() < 0 or found.max() >= classes):
            raise CalibrationError(
                f"label {int(found.min() if found.min() < 0 else found.max())} is out of range 0..{classes - 1}",
                where=where,
                hint="labels are class numbers as the model's output counts them",
            )
        made.append(found.reshape(shape).astype(np.int64))
    return made
