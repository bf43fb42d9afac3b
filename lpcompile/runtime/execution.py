"""How passes run float graphs without knowing the runtime: callables over sessions."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.session import Session

FEW_SAMPLES = 32


def level_for(samples: int) -> str:
    """Optimisation level of a float session: the full one reorders weights, which costs load time and a copy of them.

    Measured with one thread, milliseconds:

    ==================================  ==================  ==================
    network                             load extended, all  a run extended, all
    ==================================  ==================  ==================
    ResNet-18 (47 MB), one image        26, 97              17, 12.4 (two threads)
    MobileNetV2 (14 MB), four images    21, 43              73.4, 32.1
    ResNet-20 (1 MB), twelve images     14, 11              15.9, 9.3
    ==================================  ==================  ==================

    Args:
        samples: that will be run, over all calls.
    """
    return "extended" if samples <= FEW_SAMPLES else "all"


def run_once(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Feeds:
    """Run a small model once, on one thread."""
    return Session(proto, threads=1, level="basic").run(feeds)


def observer(graph: LpGraph, tensors: Sequence[str], *, threads: int = 0, samples: int = 1) -> RunFeeds:
    """A callable that gives named tensors of a float graph for the feeds of one call.

    Args:
        graph: the float graph; it is not changed, its weights are shared.
        tensors: what to observe.
        threads: of the runtime.
        samples: how many are to come, over all calls.
    """
    # no copy of the graph: one in a cycle would hold the weights until the collector runs
    inner = list(dict.fromkeys(t for t in tensors if not graph.value(t).is_input))
    session = None
    if inner:
        session = Session(graph, threads=threads, level=level_for(samples), outputs=inner, lean=True)

    def run(feeds: Mapping[str, np.ndarray]) -> Feeds:
        values = session.run(feeds, inner) if session is not None else {}
        return {t: values[t] if t in values else feeds[t] for t in tensors}

    return run
