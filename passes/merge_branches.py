"""Parallel convolutions of one tensor whose results are summed become one: W1 x + W2 x + x = (W1 + W2 + 1) x.

That is how RepVGG, MobileOne, RepViT and ACNet are trained. A smaller kernel stands among zeros in the larger one, the
tensor itself and its batch norm are one tap a channel, a mean of windows is a constant kernel. Branches merge where the
one kernel has no more weights than they had together: every position then takes no more products either.
[ding2019; ding2021, sec. 3.3; vasu2023]
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile import option_checks
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import F64
from lpcompile.passes.constant_inputs import dim_of, input_at
from lpcompile.passes.conv_branches import ON_THE_WAY, SHARED, Branch, of_conv, of_others, summed
from lpcompile.passes.conv_taps import Taps
from lpcompile.passes.fold_batchnorm import FoldBatchnorm
from lpcompile.passes.node_replacement import remove_dead
from lpcompile.passes.sum_trees import SumTree, sum_trees
from lpcompile.pipeline import Pass, PassContext
from lpcompile.quant.peaks import peak_energy
from lpcompile.records import PassReport

STRIDES = "its strides are others than those of {}"
CHANNELS = "its channels are not as many as those of {}"
SIZES = "its padding does not fit that of {}"
GROWS = "together with {} there would be more weights"
KEPT = "it is kept float"
NORM_BEFORE = "it reads a norm of what the other branches read"
COARSE = "with it the weights of {} would be rounded more coarsely"
NOT_FINITE = "the weights together with {} are not finite"


@dataclass(frozen=True, slots=True)
class MergeBranches(Pass):
    """Sums of convolutions of one tensor as one convolution.

    Attributes:
        most-loss-db: what a norm, a mean or the tensor itself may add to the rounding error of the weights, by the
            largest of those that share a scale; 0: anything.
    """

    name: ClassVar[str] = "merge-branches"
    summary: ClassVar[str] = (
        "convolutions, norms and means of one tensor that are summed become one convolution"
    )
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    most_loss_db: float = 0.0  # anything

    def __post_init__(self) -> None:
        option_checks.at_least("most-loss-db", self.most_loss_db, 0.0)

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Merge what can be merged exactly, and fold the norms that then follow a convolution."""
        report = PassReport(self.name)
        if Fact.SHAPES not in graph.facts:
            graph.infer_shapes()
        limit = _Limit(self.most_loss_db, ctx.weights.granularity if ctx.weights else "channel")
        while True:
            sweep = PassReport(self.name)
            for tree in sum_trees(graph):
                _merge(graph, ctx, tree, limit, sweep)
            report.changes += sweep.changes
            if not sweep.changes:
                report.skips = sweep.skips
                return report
            remove_dead(graph)
            report.changes += FoldBatchnorm().run(graph, ctx).changes


def _merge(graph: LpGraph, ctx: PassContext, tree: SumTree, limit: "_Limit", report: PassReport) -> None:
    """Merge branches of one tensor, the first that has some."""
    convs = {i: n for i, v in enumerate(tree.terms) if (n := v.producer) and n.op == "Conv" and not n.domain}
    for source in dict.fromkeys(n.inputs[0] for n in convs.values()):
        if source is None:
            continue
        found, refused = _branches(graph, ctx, tree, source, convs)
        if len(found) + len(refused) < 2:
            for i in found:
                if _reads_norm(source, [*tree.terms, *(n.inputs[0] for n in convs.values())]):
                    report.skip(convs[i], NORM_BEFORE)
            continue
        for main in sorted((i for i in found if found[i].layer), key=lambda i: -found[i].elements):
            merged, reasons = _merge_into(graph, tree, found, main, source, limit)
            if merged:
                report.change(found[main].layer or "", merged)
                return
            refused = {**reasons, **refused}
        for i, reason in sorted(refused.items()):
            report.skip(_told(tree.terms[i], source), reason)


def _told(term: Value, source: Value) -> Node | Value:
    """What a reader knows a branch by: its last node, or the tensor itself."""
    return term if term == source else term.producer or term


def _branches(
    graph: LpGraph, ctx: PassContext, tree: SumTree, source: Value, convs: dict[int, Node]
) -> tuple[dict[int, Branch], dict[int, str]]:
    """Operands of a sum, by number, that are convolutions of `source`, and why others of them cannot merge."""
    found: dict[int, Branch] = {}
    refused: dict[int, str] = {}
    form: tuple[int, int] | None = None
    for i, conv in convs.items():
        if conv.inputs[0] != source:
            continue
        branch = of_conv(conv)
        if isinstance(branch, Branch):
            form = branch.inputs, len(branch.taps.kernel)
        if conv.name in ctx.keep_float:
            branch = KEPT
        elif not graph.sole_producer(tree.terms[i]):
            branch = SHARED
        _put(branch, i, found, refused)
    for i, term in enumerate(tree.terms):
        if form is not None and (i not in convs or convs[i].inputs[0] != source):
            other = of_others(graph, term, source, *form)
            if other is not None:
                _put(other, i, found, refused)
    return found, refused


def _put(branch: Branch | str, i: int, found: dict[int, Branch], refused: dict[int, str]) -> None:
    if isinstance(branch, Branch):
        found[i] = branch
    else:
        refused[i] = branch


def _reads_norm(source: Value, others: list[Value | None]) -> bool:
    """Whether `source` is a norm of one of these tensors."""
    norm = source.producer
    if norm is None or norm.domain or norm.op not in ON_THE_WAY:
        return False
    return any(v is not None and not v.is_constant and v in others for v in norm.inputs)


def _merge_into(
    graph: LpGraph, tree: SumTree, found: dict[int, Branch], main: int, source: Value, limit: "_Limit"
) -> tuple[str, dict[int, str]]:
    """Let the Conv of one branch do the work of all that fit it: what was done, or why nothing was."""
    first = found[main]
    layer = first.layer
    assert layer is not None
    taps, members, reasons = first.taps, [main], dict[int, str]()
    for i in sorted(found, key=lambda i: (found[i].layer is None, -found[i].elements, i)):
        if i == main:
            continue
        branches = [found[m] for m in members]
        joined = _joined(graph, taps, branches, found[i], source)
        if (
            isinstance(joined, Taps)
            and found[i].layer is None
            and limit.exceeded(branches, taps, found[i], joined)
        ):
            joined = COARSE
        if isinstance(joined, str):
            reasons[i] = joined.format(layer.name)
        else:
            taps = joined
            members.append(i)
    if len(members) == 1:
        return "", reasons
    kind = layer.inputs[1]
    dtype = np.dtype(np.float32) if kind is None or kind.dtype is None else kind.dtype
    with np.errstate(over="ignore"):
        w, b = (part.astype(dtype) for part in summed([found[m] for m in members], taps))
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        return "", {**reasons, main: NOT_FINITE.format(_told(tree.terms[members[1]], source).name)}
    names = ", ".join(_told(tree.terms[m], source).name for m in members[1:])
    graph.set_weights(layer, w, b if b.any() or input_at(layer, 2) is not None else None)
    layer.attrs.pop("auto_pad", None)
    for key, value in taps.attributes().items():
        layer.set_attr(key, value)
    tree.without(graph, {*members[1:]})
    return f"it does the work of {names} too", reasons


@dataclass(frozen=True, slots=True)
class _Limit:
    """What a branch without weights of its own may add to the rounding error of the weights.

    Attributes:
        most_db: 0: anything.
        granularity: what will share a scale.
    """

    most_db: float
    granularity: str

    def exceeded(self, members: list[Branch], taps: Taps, more: Branch, joined: Taps) -> bool:
        """Whether `more` adds too much to these branches."""
        if self.most_db <= 0:
            return False
        before, after = (
            self._energy(summed(*args)[0]) for args in ((members, taps), ([*members, more], joined))
        )
        return after > before * 10 ** (self.most_db / 10)

    def _energy(self, weight: F64) -> float:
        grouped = self.granularity.startswith("group")
        rows = weight.reshape(1 if self.granularity == "tensor" else len(weight), -1)
        return peak_energy(rows, int(self.granularity.removeprefix("group")) if grouped else 0)


def _joined(graph: LpGraph, taps: Taps, members: list[Branch], other: Branch, source: Value) -> Taps | str:
    """Where a convolution reads that does the work of a further branch too, or why there is none."""
    first = members[0]
    if other.channels != first.channels:
        return CHANNELS
    if other.taps.strides != taps.strides:
        return STRIDES
    joined = taps.joined(other.taps)
    if taps.beyond != other.taps.beyond:
        sizes = [dim_of(source, 2 + a) for a in range(len(taps.kernel))]
        known = tuple(n for n in sizes if n is not None)
        if len(known) < len(sizes) or len({t.outputs(known) for t in (taps, other.taps, joined)}) > 1:
            return SIZES
    if joined.weights(first.channels, first.inputs) > _freed([*members, other]):
        return GROWS
    return joined


def _freed(members: list[Branch]) -> int:
    """Weights that nobody reads any more where these branches are one."""
    layers = {b.layer.name for b in members if b.layer}
    weights = {w: b.elements for b in members if b.layer and (w := b.layer.inputs[1])}
    return sum(
        n for w, n in weights.items() if all(c.name in layers for c in w.consumers) and not w.is_output
    )
