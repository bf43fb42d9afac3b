"""Runs of a graph that changes layer by layer: what no later change can reach is computed once and fed from then on.

Layers are changed in an order of execution, and the inputs of the next ones are wanted each time. All that lies before
the layers that may still change is settled; the tensors that leave it are kept, of every call, and the next run starts
from them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.topology import digraph

HELD_BYTES = 1 << 27  # of the tensors that are kept; where they take more, a run starts from an earlier place

Held = Mapping[str, NDArray[np.generic]]


class SettledRuns:
    """Runs of one graph on the same calls.

    Args:
        observe: opens a graph.
        calls: of the model.
        most_bytes: of what is kept.
    """

    def __init__(
        self, observe: ObserveGraph, calls: Sequence[Feeds], *, most_bytes: int = HELD_BYTES
    ) -> None:
        self._observe, self._calls, self._most_bytes = observe, calls, most_bytes
        self._settled: frozenset[str] = frozenset()  # nodes that are not run again
        self._held: Sequence[Held] = [{} for _ in calls]

    def run(
        self, graph: LpGraph, tensors: Sequence[str], changing: Collection[str] | None
    ) -> Iterator[Feeds]:
        """The tensors of every call.

        Args:
            graph: as it is now; only layers that were `changing` before may have changed.
            tensors: what is wanted.
            changing: layers that may still change, whose inputs alone are wanted from now on; None: nothing is known,
                and all is run from the inputs.
        """
        held = self._held
        settled, border = self._settled, list(held[0]) if held else []
        if changing is not None:
            settled, border = self._next(graph, tensors, frozenset(changing))
        known = set(held[0]) if held else set()
        inner = [t for t in dict.fromkeys((*tensors, *border)) if t not in known]
        cut, fed = _cut(graph, known)
        run = self._observe(cut, inner)
        kept: list[Held] = []
        room = self._most_bytes
        for call, before in zip(self._calls, held, strict=True):
            values = {**before, **run({**call, **{fed[t]: x for t, x in before.items()}})}
            if room >= 0:
                kept.append({t: values[t] for t in border})
                room -= sum(x.nbytes for x in kept[-1].values())
                if room < 0:
                    kept.clear()
            yield {t: values[t] for t in tensors}
        if room >= 0:
            self._settled, self._held = settled, kept

    def _next(
        self, graph: LpGraph, tensors: Sequence[str], changing: frozenset[str]
    ) -> tuple[frozenset[str], list[str]]:
        """What will be settled after this run, and the tensors that leave it; as it was where that cannot be cut."""
        view = digraph(graph)
        moving, needed = _downstream(view, changing), _upstream(view, changing)
        ends = {p.name for t in tensors if (p := graph.value(t).producer) is not None}
        settled = self._settled | (_upstream(view, ends) - moving)
        border: dict[str, None] = {}
        for before, after, names in view.edges(data="tensors"):
            if before in settled and after in needed and after not in settled:
                if graph.node(after).subgraphs or any(graph.value(t).dtype is None for t in names):
                    return self._settled, list(self._held[0]) if self._held else []
                border |= dict.fromkeys(names)
        return settled, list(border)


def _downstream(view: "nx.DiGraph[str]", first: frozenset[str]) -> set[str]:
    """Nodes that depend on any of `first`, and those."""
    found = set(first)
    for name in view:  # inserted in execution order
        if any(p in found for p in view.predecessors(name)):
            found.add(name)
    return found


def _upstream(view: "nx.DiGraph[str]", last: Collection[str]) -> set[str]:
    """Nodes that any of `last` depends on, and those."""
    found = set(last)
    for name in reversed(list(view)):
        if any(s in found for s in view.successors(name)):
            found.add(name)
    return found


def _cut(graph: LpGraph, held: Collection[str]) -> tuple[LpGraph, Mapping[str, str]]:
    """The graph with tensors as inputs, and the names of these."""
    if not held:
        return graph, {}
    cut, fed = graph.copy(), {}
    for name in sorted(held):
        value = cut.value(name)
        assert value.dtype is not None
        free = None if value.shape is None else [None] * len(value.shape)
        made = cut.add_input(cut.fresh(f"{name}/held"), value.dtype, ())
        cut.set_type(made, value.dtype, free)
        cut.replace_uses(value, made, only=lambda _: True)
        fed[name] = made.name
    return cut, fed
