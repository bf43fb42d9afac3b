"""How passes run float graphs without knowing the runtime: callables over sessions."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.session import Session

FEW_CALLS = 32


def level_for(calls: int) -> str:
    """Optimisation level of a float session: the full one reorders weights, which costs load time and a copy of them.

    Measured on ResNet-18: load 97 ms and 134 MB against 26 ms and 46 MB, a run 12.4 ms against 17 ms.
    """
    return "extended" if calls <= FEW_CALLS else "all"


def run_once(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Feeds:
    """Run a small model once, on one thread."""
    return Session(proto, threads=1, level="basic").run(feeds)


def observer(graph: LpGraph, tensors: Sequence[str], *, threads: int = 0, calls: int = 1) -> RunFeeds:
    """A callable that gives named tensors of a float graph for the feeds of one call.

    Args:
        graph: the float graph; it is not changed, its weights are shared.
        tensors: what to observe.
        threads: of the runtime.
        calls: how many calls are to come.
    """
    # no copy of the graph: one in a cycle would hold the weights until the collector runs
    inner = list(dict.fromkeys(t for t in tensors if not graph.value(t).is_input))
    session = None
    if inner:
        session = Session(graph, threads=threads, level=level_for(calls), outputs=inner, lean=True)

    def run(feeds: Mapping[str, np.ndarray]) -> Feeds:
        values = session.run(feeds, inner) if session is not None else {}
        return {t: values[t] if t in values else feeds[t] for t in tensors}

    return run
