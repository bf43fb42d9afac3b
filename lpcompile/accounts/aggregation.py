"""Nodes that make one number of many: pools, reductions, norms, softmax, interpolation.

Windows count whole, padding included, as those of convolutions do.
"""

from collections.abc import Mapping
from math import prod

from lpcompile.accounts import functions as f
from lpcompile.accounts.elementwise import Rule, first
from lpcompile.accounts.functions import Recipe
from lpcompile.accounts.sizes import UnknownSizeError, dims_of, elements
from lpcompile.accounts.spending import Spending
from lpcompile.analysis.cost_classes import NORM, OTHER, POOL, SOFTMAX
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RMS_NORMS


def _pool(each: Recipe, joined: Recipe, last: Recipe) -> Rule:
    """`each` number of a window, `joined` between two of them, `last` an output."""

    def rule(node: Node, s: Spending) -> None:
        outputs, window = elements(first(node)), prod(int(k) for k in node.attrs["kernel_shape"])
        s.spend(POOL, each, outputs * window)
        s.spend(POOL, joined, outputs * (window - 1))
        s.spend(POOL, last, outputs)

    return rule


def _reduction(each: Recipe, joined: Recipe, last: Recipe, name: str = OTHER) -> Rule:
    """The same for reductions, whose windows are whole axes."""

    def rule(node: Node, s: Spending) -> None:
        inputs, outputs = elements(node.inputs[0]), elements(first(node))
        s.spend(s.role(name), each, inputs)
        s.spend(s.role(name), joined, inputs - outputs)
        s.spend(s.role(name), last, outputs)

    return rule


def _mean(node: Node, s: Spending) -> None:
    """Over the pixels of an image it is a pool, over the last axis of a sequence part of a norm."""
    inputs, outputs = elements(node.inputs[0]), elements(first(node))
    name = POOL if len(dims_of(node.inputs[0])) > 3 else OTHER
    s.spend(name, f.ADD, inputs - outputs)
    s.spend(name, f.MULTIPLY, outputs)


def _batch_norm(node: Node, s: Spending) -> None:
    """One slope and one offset a channel: the rest are constants."""
    if node.attrs.get("training_mode", 0):
        raise UnknownSizeError("it measures its own mean and variance, as in training")
    s.spend(NORM, f.MULTIPLY + f.ADD, elements(first(node)))


def _layer_norm(node: Node, s: Spending) -> None:
    shape = dims_of(node.inputs[0])
    axis = int(node.attrs.get("axis", -1))
    _normalise(node, s, prod(shape[:axis]), centred=True)


def _rms_norm(node: Node, s: Spending) -> None:
    shape = dims_of(node.inputs[0])
    _normalise(node, s, prod(shape[: int(node.attrs.get("axis", -1))]), centred=False)


def _instance_norm(node: Node, s: Spending) -> None:
    _normalise(node, s, prod(dims_of(node.inputs[0])[:2]), centred=True)


def _group_norm(node: Node, s: Spending) -> None:
    rows = dims_of(node.inputs[0])[0] * int(node.attrs["num_groups"])
    _normalise(node, s, rows, centred=True)


def _lp_norm(node: Node, s: Spending) -> None:
    shape = dims_of(node.inputs[0])
    rows = prod(shape) // max(1, shape[int(node.attrs.get("axis", -1))])
    _normalise(node, s, rows, centred=False)


def _mean_variance(node: Node, s: Spending) -> None:
    shape = dims_of(node.inputs[0])
    axes = {int(a) % len(shape) for a in node.attrs.get("axes") or (0, 2, 3)}
    _normalise(node, s, prod(d for i, d in enumerate(shape) if i not in axes), centred=True)


def _normalise(node: Node, s: Spending, rows: int, *, centred: bool) -> None:
    """Mean and variance of each row, then slope and offset where there are any."""
    count, constants = elements(first(node)), [v for v in node.inputs[1:3] if v is not None]
    if centred:
        s.spend(NORM, f.ADD + f.ADD, count)  # the mean, and what is taken off
        s.spend(NORM, f.MULTIPLY, rows)
    s.spend(NORM, f.MULTIPLY + f.ADD, count)  # squares
    s.spend(NORM, f.MULTIPLY + f.ADD + f.ROOT + f.DIVIDE, rows)
    s.spend(NORM, f.MULTIPLY, count)
    for _, recipe in zip(constants, (f.MULTIPLY, f.ADD), strict=False):
        s.spend(NORM, recipe, count)


def _local_response(node: Node, s: Spending) -> None:
    """X / (k + a/n * sum of squares of n channels)^b."""
    count, size = elements(first(node)), int(node.attrs["size"])
    power = f.power(float(node.attrs.get("beta", 0.75)))
    s.spend(NORM, f.MULTIPLY, 2 * count)
    s.spend(NORM, f.ADD, size * count)
    s.spend(NORM, {**power}, count)
    s.spend(NORM, f.DIVIDE, count)


def _softmax(node: Node, s: Spending) -> None:
    s.spend(SOFTMAX, f.SOFTMAX, elements(first(node)))


def _hardmax(node: Node, s: Spending) -> None:
    """Each number against the largest so far, then against the largest."""
    s.spend(SOFTMAX, f.COMPARE + f.COMPARE, elements(first(node)))


def _log_softmax(node: Node, s: Spending) -> None:
    shape = dims_of(first(node))
    rows = prod(shape) // max(1, shape[int(node.attrs.get("axis", -1))])
    s.spend(SOFTMAX, f.COMPARE + f.ADD + f.EXP + f.ADD + f.ADD, prod(shape))
    s.spend(SOFTMAX, f.LOG, rows)


def _resize(node: Node, s: Spending) -> None:
    """Nearest numbers are moved; linear and cubic interpolation weighs 2 or 4 of them an axis that changes."""
    mode = node.attrs.get("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    if mode == "nearest":
        return
    before, after = dims_of(node.inputs[0]), dims_of(first(node))
    axes = sum(a != b for a, b in zip(before, after, strict=True))
    taps = (4 if mode == "cubic" else 2) ** axes
    s.spend(OTHER, f.MULTIPLY, taps * prod(after))
    s.spend(OTHER, f.ADD, (taps - 1) * prod(after))


RULES: Mapping[str, Rule] = {
    "ArgMax": _reduction(f.NOTHING, f.COMPARE, f.NOTHING),
    "ArgMin": _reduction(f.NOTHING, f.COMPARE, f.NOTHING),
    "AveragePool": _pool(f.NOTHING, f.ADD, f.MULTIPLY),
    "BatchNormalization": _batch_norm,
    "GlobalAveragePool": _reduction(f.NOTHING, f.ADD, f.MULTIPLY, POOL),
    "GlobalMaxPool": _reduction(f.NOTHING, f.COMPARE, f.NOTHING, POOL),
    "GroupNormalization": _group_norm,
    "Hardmax": _hardmax,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_norm,
    "LpPool": _pool(f.MULTIPLY, f.ADD, f.ROOT),
    "MaxPool": _pool(f.NOTHING, f.COMPARE, f.NOTHING),
    "MeanVarianceNormalization": _mean_variance,
    **dict.fromkeys(RMS_NORMS, _rms_norm),
    "ReduceL1": _reduction(f.FREE, f.ADD, f.NOTHING),
    "ReduceL2": _reduction(f.MULTIPLY, f.ADD, f.ROOT),
    "ReduceLogSum": _reduction(f.NOTHING, f.ADD, f.LOG),
    "ReduceLogSumExp": _reduction(f.EXP, f.ADD, f.LOG),
    "ReduceMax": _reduction(f.NOTHING, f.COMPARE, f.NOTHING),
    "ReduceMean": _mean,
    "ReduceMin": _reduction(f.NOTHING, f.COMPARE, f.NOTHING),
    "ReduceProd": _reduction(f.NOTHING, f.MULTIPLY, f.NOTHING),
    "ReduceSum": _reduction(f.NOTHING, f.ADD, f.NOTHING),
    "ReduceSumSquare": _reduction(f.MULTIPLY, f.ADD, f.NOTHING),
    "Resize": _resize,
    "Softmax": _softmax,
    "Upsample": _resize,
}
