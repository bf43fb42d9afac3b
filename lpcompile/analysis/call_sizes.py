"""The graph that calls run: of inputs whose sizes the model leaves open, those that all calls share."""

from collections.abc import Mapping, Sequence

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
    if shapes := shared_sizes(calls, {v.name: v.shape for v in graph.inputs}):
        copy.infer_shapes(shapes)
    return copy


def shared_sizes(calls: Sequence[Feeds], declared: Mapping[str, Shape | None]) -> dict[str, Shape]:
    """Shapes of inputs with the sizes that all calls share, where that says more than what is declared.

    Args:
        calls: feeds of the model.
        declared: shapes of its inputs.
    """
    shapes: dict[str, Shape] = {}
    for name, known in declared.items():
        seen = [call[name].shape for call in calls if name in call]
        ranks = {len(s) for s in seen}
        dims = (None,) * min(ranks, default=0) if known is None else known
        if ranks != {len(dims)}:
            continue
        same = [set(sizes) for sizes in zip(*seen, strict=True)]
        shape = tuple(min(found) if len(found) == 1 else d for found, d in zip(same, dims, strict=True))
        if shape != known:
            shapes[name] = shape
    return shapes
