"""What each layer costs by the user's own metric: its weights quantised alone, in one loaded model.

The metric gets the `onnxruntime.InferenceSession` of a `PatchedModel`: it reads the weights that were written last, so
nothing is loaded between layers.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.own_weights import with_own_weights
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.metric import Metric
from lpcompile.runtime.patched import PatchedModel


def metric_drops(
    metric: Metric,
    graph: LpGraph,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, dict[str, float]]:
    """The score of the float model, and how much worse it is with other weights, one layer at a time.

    Args:
        metric: the user's; called once a layer, and once for the float model.
        graph: the float graph, with inputs and outputs as the metric knows them.
        weights: layer name -> weights in place of its own, in their shape.
        threads: of the runtime.
        progress: called with (done, total).

    Raises:
        MetricError: the metric fails or gives no finite number.
    """
    graph = with_own_weights(graph, weights)
    names = {layer: _weight_name(graph, layer) for layer in weights}
    model = PatchedModel(graph, list(names.values()), threads=threads)
    reference, drops = metric.of_session(model.session), dict[str, float]()
    for done, (layer, array) in enumerate(weights.items()):
        model.patch(names[layer], array)
        drops[layer] = metric.drop(reference, metric.of_session(model.session))
        model.restore(names[layer])
        if progress is not None:
            progress(done + 1, len(weights))
    return reference, drops


def _weight_name(graph: LpGraph, layer: str) -> str:
    weight = graph.node(layer).inputs[1]
    assert weight is not None, "layers have weights"
    return weight.name
