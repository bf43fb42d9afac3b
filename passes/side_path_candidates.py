"""Side paths among what a layer may take: format, granularity and rank are chosen together, under one budget.

A rank is tried as `lowrank-first` will carry it out: the directions of the weights that move the outputs most are taken
out, what is left is fitted and rounded. The repair of the residual that follows comes on top.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lpcompile.assignment.candidates import Candidate, FittedCandidates, fit_candidates
from lpcompile.assignment.layer_facts import LayerFormat
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.formats.arrays import F32
from lpcompile.formats.planned import LEARNED, format_of
from lpcompile.ir.node import Node
from lpcompile.passes.side_paths import damped_matrix, least_beside, side_path_obstacle
from lpcompile.plan import MERGED, METRIC_ROUNDINGS, Kernel
from lpcompile.quant.low_rank import low_rank
from lpcompile.quant.rows import to_rows
from lpcompile.quant.side_path import MOST_RANK

METHOD = "lowrank-first"
MOST_MACS = 0.5  # of a layer's own
MOST_BY_FORMAT = 8  # candidates of the format that paths stand beside


def parse_ranks(text: str) -> list[int]:
    """Ranks of an option, ascending: "4+8+16"; an empty text is none.

    Raises:
        ValueError: they are no ranks.
    """
    words = list(filter(None, text.split("+")))
    if not all(r.isdecimal() and 0 < int(r) <= MOST_RANK for r in words):
        raise ValueError(f"option 'ranks' is numbers from 1 to {MOST_RANK}, as 4+8+16, not '{text}'")
    return sorted({int(r) for r in words})


def with_side_paths(
    node: Node, kernel: Kernel, found: FittedCandidates, ranks: Sequence[int], min_scale: F32 | None
) -> FittedCandidates:
    """The candidates of a layer and, beside the best format of few bits, those with a side path.

    Args:
        node: the layer.
        kernel: how it runs.
        found: its candidates without paths; where they have no metric there are no others.
        ranks: that are tried.
        min_scale: (C,) least channel scales, as in `fit`.
    """
    weight = node.inputs[1]
    assert weight is not None
    bases = _bases(node, kernel, found, min(ranks))
    if found.metric is None or not bases:
        return found
    b, a = low_rank(to_rows(node.op, weight.values), max(ranks), damped_matrix(found.metric))
    floors = least_beside(found.sample, None if min_scale is None else min_scale[found.channels])
    more = []
    for rank in ranks:
        wanted = [replace(c.weight, rank=rank, side_path=METHOD, side_lowering=MERGED) for c in bases]
        wanted = [w for w in wanted if not side_path_obstacle(node, kernel, w, rank=rank, most=MOST_MACS)]
        if not wanted:
            continue
        left = np.asarray(found.sample - b[found.channels, :rank] @ a[:rank], np.float32)
        tried = fit_candidates(left, wanted, metric=found.metric, min_scale=floors, prune=False)
        share = found.outputs / len(left)
        shape = (found.outputs, left.shape[1])
        more += [
            Candidate(
                c.weight,
                c.tensor,
                c.loss * share,
                stored_bits(shape, LayerFormat(c.weight, kernel=Kernel.WEIGHT_ONLY)),
                left,
            )
            for c in tried.candidates
        ]
    return replace(found, candidates=(*found.candidates, *more)).best_by_format(MOST_BY_FORMAT)


def _bases(node: Node, kernel: Kernel, found: FittedCandidates, rank: int) -> list[Candidate]:
    """The least lossy format that a path may stand beside, at its granularities."""
    own = [
        c
        for c in found.candidates
        if format_of(c.weight.format).bits <= 4
        and not c.weight.format.startswith(LEARNED)
        and c.weight.rounding in METRIC_ROUNDINGS
        and not side_path_obstacle(node, kernel, c.weight, rank=rank, most=MOST_MACS)
    ]
    if not own:
        return []
    best = min(own, key=lambda c: c.loss).weight.format
    return [c for c in own if c.weight.format == best]
