"""Bring the channels between two convolutions closer to one range, so that one scale serves them all.

W1 / s, b1 / s before and W2 s after leave the float network as it is. [nagel2019, sec. 4.1; xiao2023]
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.analysis.calibration import Calibration, Feeds
from lpcompile.analysis.equalization import channel_extremes, factors, find_spans, noise
from lpcompile.analysis.macs import macs
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.channel_affine import ChannelAffine
from lpcompile.passes.constant_inputs import output_at
from lpcompile.passes.layer_constants import absorb_after, absorb_before
from lpcompile.passes.scaling_folds import SUFFIX
from lpcompile.pipeline import ObserveGraph
from lpcompile.records import PassReport

MOST_CALLS, LEAST_CALLS = 8, 4  # evenly spread: the root of a largest value asks for no more
MACS = 8e9  # of all these calls together, or else as few as may be: each is a run of the network
SHARES = "a layer at its ends shares its weights with another one: the file would hold them several times"


def equalize_ranges(
    graph: LpGraph, calibration: Calibration, observe: ObserveGraph, report: PassReport
) -> None:
    """Scale where the estimated noise at the outputs of the readers falls.

    Args:
        graph: with batch norms folded; changed in place.
        calibration: the samples.
        observe: opens the graph.
        report: says what was done.
    """
    spans, skipped = find_spans(graph)
    for name, reason in skipped.items():
        report.skip(name, reason)
    if calibration.generated:
        for span in spans:
            report.skip(span.maker, "generated inputs say little of single channels")
        return
    if not spans:
        return
    tensors = list(dict.fromkeys(s.tensor for s in spans))
    seen = channel_extremes(observe(graph, tensors), some_calls(graph, calibration.deciding), tensors)
    for span in spans:
        if any(_shares_weights(n) for n in (span.maker, *span.readers)):
            report.skip(span.maker, SHARES)
            continue
        extremes = seen[span.tensor]
        s = factors(extremes)
        if s is None:
            report.skip(span.maker, "its output is zero or not finite on the samples")
            continue
        now, then = noise(span.readers, extremes, np.ones_like(s), s)
        if not then < now:
            report.skip(span.maker, "the weights after it would lose more than the activations gain")
            continue
        nothing = np.zeros_like(s)
        absorb_after(graph, span.maker, ChannelAffine(output_at(span.maker), 1 / s, nothing))
        for node in span.readers:
            absorb_before(graph, node, ChannelAffine(output_at(span.maker), s, nothing))
        for value in span.between:  # under its old name a reader would look for the old numbers
            graph.rename(value, value.name + SUFFIX)
        report.change(
            span.maker,
            f"channels scaled, undone in {', '.join(n.name for n in span.readers)}",
            after=f"by {1 / s.min():.3g} at most; noise {10 * np.log10(then / now):.1f} dB",
        )


def _shares_weights(node: Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and len(weight.consumers) > 1


def some_calls(graph: LpGraph, calls: Sequence[Feeds], most: int = MOST_CALLS) -> list[Feeds]:
    """The calls to look at; shapes that are not known count as no work."""
    work = sum(macs(layer) or 0 for layer in graph.layers())
    count = int(np.clip(MACS // max(1, work), LEAST_CALLS, most))
    return [calls[i] for i in np.unique(np.linspace(0, len(calls) - 1, min(count, len(calls))).astype(int))]
