"""How passes run float graphs without knowing the runtime: callables over sessions."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.session import Session


def run_once(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Feeds:
    """Run a small model once, on one thread."""
    return Session(proto, threads=1).run(feeds)


def observer(graph: LpGraph, tensors: Sequence[str], *, threads: int = 0) -> RunFeeds:
    """A callable that gives named tensors of a float graph for the feeds of one call."""
    wider = graph.copy()
    outputs = {o.name for o in wider.outputs}
    inner = [t for t in tensors if not wider.value(t).is_input]
    for name in inner:
        if name not in outputs:
            wider.add_output(wider.value(name))
    session = Session(wider.to_proto(), threads=threads) if inner else None

    def run(feeds: Mapping[str, np.ndarray]) -> Feeds:
        values = session.run(feeds, inner) if session is not None else {}
        return {t: values[t] if t in values else feeds[t] for t in tensors}

    return run
