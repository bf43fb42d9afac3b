"""The graph that calls run: of inputs whose sizes the model leaves open, those that all calls share."""

from collections.abc import Sequence

from lpcompile.analysis.calibration import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.store import Shape


def with_sizes_of(calls: Sequence[Feeds], graph: LpGraph) -> LpGraph:
    """A copy in which they are fixed, and what is inferred of them.

    Rules of gradients ask for sizes: the steps of a recurrent cell, padding that the input decides, the rank behind a
    Reshape. Sizes that differ from call to call stay open, and so do all where there are bodies: a branch that is not
    taken may not fit them.
    """
    copy = graph.copy()
    if any(n.subgraphs for n in graph.nodes()):
        return copy
    shapes: dict[str, Shape] = {}
    for value in graph.inputs:
        seen = [call[value.name].shape for call in calls if value.name in call]
        ranks = {len(s) for s in seen}
        declared = (None,) * min(ranks, default=0) if value.shape is None else value.shape
        if ranks != {len(declared)}:
            continue
        same = [set(sizes) for sizes in zip(*seen, strict=True)]
        shape = tuple(min(found) if len(found) == 1 else d for found, d in zip(same, declared, strict=True))
        if shape != value.shape:
            shapes[value.name] = shape
    if shapes:
        copy.infer_shapes(shapes)
    return copy
