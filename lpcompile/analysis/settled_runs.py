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
from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.part import part_of
from lpcompile.ir.topology import digraph

HELD_BYTES = 1 << 27  # of the tensors that are kept; where they take more, a run starts from an earlier place

Held = Mapping[str, NDArray[np.generic]]


class SettledRuns:
    """Runs of one graph on the same calls.

    Args:
        observe: opens a graph.
        parts: calls of the model; each part is gone through by itself, with the sessions that all share.
        most_bytes: of what is kept of a part.
    """

    def __init__(
        self, observe: ObserveGraph, parts: Sequence[Sequence[Feeds]], *, most_bytes: int = HELD_BYTES
    ) -> None:
        self._observe, self._parts, self._most_bytes = observe, parts, most_bytes
        self._settled: frozenset[str] = frozenset()  # nodes that are not run again
        self._held: Sequence[Sequence[Held]] = [[{} for _ in calls] for calls in parts]
        self._view: nx.DiGraph[str] | None = None

    def run(
        self, graph: LpGraph, tensors: Sequence[str], changing: Collection[str] | None
    ) -> list[Iterator[Feeds]]:
        """The tensors of every call, part by part. Parts may be gone through at the same time, all before the next run.

        Args:
            graph: as it is now; only weights of layers that were `changing` before may have changed.
            tensors: what is wanted.
            changing: layers that may still change, whose inputs alone are wanted from now on; None: nothing is known,
                and all is run from the inputs.
        """
        known = list(next((held[0] for held in self._held if held), {}))
        settled, border = self._settled, known
        if changing is not None:
            settled, border = self._next(graph, tensors, frozenset(changing), known)
        inner = [t for t in dict.fromkeys((*tensors, *border)) if t not in known]
        run = self._observe(part_of(graph, inner, known) if known else graph, inner)
        kept: list[list[Held] | None] = [None for _ in self._parts]
        return [
            self._calls(run, (calls, held), tensors, border, (i, kept, settled))
            for i, (calls, held) in enumerate(zip(self._parts, self._held, strict=True))
        ]

    def _calls(
        self,
        run: RunFeeds,
        of_part: tuple[Sequence[Feeds], Sequence[Held]],
        tensors: Sequence[str],
        border: Sequence[str],
        goal: tuple[int, list[list[Held] | None], frozenset[str]],
    ) -> Iterator[Feeds]:
        part, kept, settled = goal
        found: list[Held] = []
        room = self._most_bytes
        for call, before in zip(*of_part, strict=True):
            values = {**before, **run({**call, **before})}
            if room >= 0:
                found.append({t: values[t] for t in border})
                room -= sum(x.nbytes for x in found[-1].values())
                if room < 0:
                    found.clear()
            yield {t: values[t] for t in tensors}
        if room >= 0:
            kept[part] = found
            held = [k for k in kept if k is not None]
            if len(held) == len(kept):  # the next run starts from where this one came to
                self._settled, self._held = settled, held

    def _next(
        self, graph: LpGraph, tensors: Sequence[str], changing: frozenset[str], known: list[str]
    ) -> tuple[frozenset[str], list[str]]:
        """What will be settled after this run, and the tensors that leave it; as it was where that cannot be cut."""
        if self._view is None:
            self._view = digraph(graph)
        view = self._view
        moving, needed = _downstream(view, changing), _upstream(view, changing)
        ends = {p.name for t in tensors if (p := graph.value(t).producer) is not None}
        settled = self._settled | (_upstream(view, ends) - moving)
        border: dict[str, None] = {}
        for before, after, names in view.edges(data="tensors"):
            if before in settled and after in needed and after not in settled:
                if graph.node(after).subgraphs or any(graph.value(t).dtype is None for t in names):
                    return self._settled, known
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
