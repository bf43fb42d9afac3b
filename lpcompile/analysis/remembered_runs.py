"""Runs of a graph that stays as it is, layer by layer as `settled_runs`, for whoever goes through it several times.

The float network is run beside every assignment that is rounded again. Where what layers read of it takes little
memory, the first time through keeps it.
"""

from collections.abc import Collection, Iterator, Sequence

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.settled_runs import SettledRuns
from lpcompile.ir.graph import LpGraph

MOST_BYTES = 1 << 27  # of all that is kept


class RememberedRuns:
    """`SettledRuns` of one graph that never changes.

    Args:
        observe: opens a graph.
        parts: calls of the model, as there.
        most_bytes: of what is kept; where it takes more, nothing is.
    """

    def __init__(
        self, observe: ObserveGraph, parts: Sequence[Sequence[Feeds]], *, most_bytes: int = MOST_BYTES
    ) -> None:
        self._observe, self._parts = observe, parts
        self._room = [most_bytes // max(1, len(parts)) for _ in parts]
        self._known: dict[tuple[str, ...], list[list[Feeds]]] = {}
        self.restart()

    def restart(self) -> None:
        """Layers will be asked for from the first one on."""
        self._runs = SettledRuns(self._observe, self._parts)

    def run(
        self, graph: LpGraph, tensors: Sequence[str], changing: Collection[str] | None
    ) -> list[Iterator[Feeds]]:
        """As of `SettledRuns`."""
        known = self._known.get(tuple(tensors), [])
        calls = [len(part) for part in self._parts]
        if known and [len(found) for found in known] == calls:
            return [iter(found) for found in known]
        runs = self._runs.run(graph, tensors, changing)
        if min(self._room, default=0) < 0:
            return runs
        kept: list[list[Feeds]] = [[] for _ in self._parts]
        self._known[tuple(tensors)] = kept
        return [self._keeping(i, run, kept[i]) for i, run in enumerate(runs)]

    def _keeping(self, part: int, run: Iterator[Feeds], kept: list[Feeds]) -> Iterator[Feeds]:
        for values in run:
            self._room[part] -= sum(x.nbytes for x in values.values())
            if self._room[part] >= 0:
                kept.append(values)
            else:
                self._known.clear()
            yield values
