"""One loaded model whose weights are changed between runs, so that trying a change costs no loading.

The weights are initialisers that the runtime reads where numpy holds them (`SessionOptions.add_initializer`); they are
written in place. That is seen by the next run only if the runtime made no copy of its own, which was measured (ONNX
Runtime 1.32, two cores; every layer of each network patched and compared with a rebuilt model):

=========================  =====================  ======================  ===================
layers whose patch showed  resnet20 (batch 16)    mobilenetv2 (batch 4)   MiniLM (4 sentences)
=========================  =====================  ======================  ===================
all                        1 of 20, 6.7 ms a run  0 of 53, 15.5 ms        0 of 36, 26.9 ms
extended                   19, 11.1 ms            53, 33.6 ms             0, 27.0 ms
extended, no prepacking    20, 11.1 ms            53, 34.1 ms             36, 29.2 ms
weights fed as inputs      20, 11.0 ms            53, 35.7 ms             36, 29.2 ms
=========================  =====================  ======================  ===================

So: level "extended" and no prepacking, where every patch shows. Level "all" reorders the weights of convolutions into
a blocked layout, a copy. Feeding the weights is as fast, but hands over all of them with every run.

Where a change is tried on many samples of a convolutional network, that speed is worth loading it anew: MobileNetV2
43 ms, for a run of four images in 32 ms instead of 73 (one thread). `ReloadedModel` does so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.inputs import Feeds
from lpcompile.errors import InputError
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.execution import level_for
from lpcompile.runtime.session import Session

LEVEL = "extended"


class PatchedModel:
    """A float graph with weights that can be exchanged and put back.

    Args:
        graph: it is not changed. A weight must be read by layers themselves, not by something the runtime may fold.
        weights: names of the float32 constants that will be patched.
        outputs: tensors to give; None for the graph's own outputs.
        threads: of the runtime.

    Raises:
        InputError: one of `weights` is no float32 constant of what is loaded.
    """

    def __init__(
        self,
        graph: LpGraph,
        weights: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        threads: int = 0,
    ) -> None:
        wanted = list(dict.fromkeys(weights))
        self._original = {n: graph.value(n) for n in wanted}
        self._session = Session(graph, threads=threads, level=LEVEL, outputs=outputs, patchable=wanted)
        self._outputs = None if outputs is None else list(outputs)
        for name in wanted:
            if name not in self._session.patchable:
                raise InputError(
                    f"'{name}' is no float32 weight that the outputs depend on",
                    hint="name weights of layers of the float graph",
                )

    @property
    def session(self) -> Session:
        """The loaded model; it computes with the weights as they are now."""
        return self._session

    def patch(self, name: str, array: NDArray[Any]) -> None:
        """Give a weight other values, of its own shape, until it is restored."""
        held = self._session.patchable[name]
        if array.shape != held.shape:
            raise ValueError(f"'{name}' has shape {held.shape}, not {array.shape}")
        np.copyto(held, array)

    def restore(self, name: str) -> None:
        """Give a weight its own values again."""
        np.copyto(self._session.patchable[name], self._original[name].values)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
        """The outputs of one call with the weights as they are now."""
        return self._session.run(feeds, self._outputs)


class ReloadedModel:
    """The same, loaded anew with all of the runtime's optimisations when it runs with other weights.

    Args:
        graph: as of `PatchedModel`.
        weights: as there.
        outputs: as there.
        threads: as there.

    Raises:
        InputError: as there.
    """

    def __init__(
        self,
        graph: LpGraph,
        weights: Sequence[str],
        outputs: Sequence[str] | None = None,
        *,
        threads: int = 0,
    ) -> None:
        self._graph, self._threads = graph, threads
        self._outputs = None if outputs is None else list(outputs)
        self._values = {n: np.ascontiguousarray(graph.value(n).values) for n in dict.fromkeys(weights)}
        self._session: Session | None = None
        for name in self._values:
            if name not in self.session.replaced:
                raise InputError(
                    f"'{name}' is no float32 weight that the outputs depend on",
                    hint="name weights of layers of the float graph",
                )

    @property
    def session(self) -> Session:
        """The loaded model with the weights as they are now."""
        if self._session is None:
            self._session = Session(
                self._graph, threads=self._threads, outputs=self._outputs, replaced=self._values, lean=True
            )
        return self._session

    def patch(self, name: str, array: NDArray[Any]) -> None:
        """Give a weight other values, of its own shape, until it is restored."""
        held = self._values[name]
        if array.shape != held.shape:
            raise ValueError(f"'{name}' has shape {held.shape}, not {array.shape}")
        self._values[name], self._session = np.array(array, held.dtype, order="C"), None

    def restore(self, name: str) -> None:
        """Give a weight its own values again."""
        self._values[name], self._session = np.ascontiguousarray(self._graph.value(name).values), None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
        """The outputs of one call with the weights as they are now."""
        return self.session.run(feeds, self._outputs)


def open_patched(
    graph: LpGraph, weights: Sequence[str], outputs: Sequence[str], *, threads: int, samples: int
) -> PatchedModel | ReloadedModel:
    """What is quicker for trying each change on so many samples."""
    reloaded = level_for(samples) == "all" and any(graph.nodes("Conv"))
    return (ReloadedModel if reloaded else PatchedModel)(graph, weights, outputs, threads=threads)
