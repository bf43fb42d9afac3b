"""Second moments of what layers read when they compute in FP8: of the numbers that FP8 leaves. [notes B4]."""

from collections.abc import Mapping, Sequence

import numpy as np

from lpcompile.analysis.batches import ObserveGraph
from lpcompile.analysis.calibration import Feeds, RunFeeds
from lpcompile.analysis.grams import Gram, gather_grams
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.passes.float8_inputs import in_float8
from lpcompile.pipeline import PassContext
from lpcompile.plan import FLOAT8_FORMAT, ActivationPlan
from lpcompile.quant.input_metric import InputMetric


class Float8Moments(dict[str, InputMetric]):
    """By name of layer.

    Attributes:
        left_out: name of layer -> why it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[str, str] = {}


def gather_moments(
    graph: LpGraph, ctx: PassContext, layers: Sequence[Node], *, rounded: bool = True
) -> Float8Moments:
    """Moments of layers; of tensors without a plan they are those of the floats.

    Args:
        graph: float graph whose plan knows the activations in FP8.
        ctx: samples.
        layers: whose.
        rounded: False: of the floats everywhere.

    Raises:
        CalibrationError: an activation is not finite.
    """
    found, calibration = Float8Moments(), ctx.calibration
    names = [n.name for n in layers]
    if not names:
        return found
    if calibration is None or calibration.generated or ctx.observe is None:
        found.left_out = dict.fromkeys(names, "no calibration data, so its inputs are not known")
        return found
    plans = {k: v for k, v in graph.plan.activations.items() if v.format == FLOAT8_FORMAT}
    grams = gather_grams(
        graph,
        names,
        observed_in_float8(ctx.observe, plans) if rounded else ctx.observe,
        calibration.deciding,
        seed=ctx.seed,
        progress=lambda done, total: ctx.progress("gathering moments of inputs", done, total),
    )
    found.left_out = grams.left_out
    shared: dict[tuple[int, bool], InputMetric] = {}
    for node in layers:
        if node.name in grams:
            gram, centred = grams[node.name], not bias_obstacle(node, graph.plan.layers[node.name].kernel)
            key = (id(gram), centred)
            if key not in shared:
                shared[key] = _metric(gram, centred=centred)
            found[node.name] = shared[key]
    return found


def _metric(gram: Gram, *, centred: bool) -> InputMetric:
    return InputMetric.of(gram.matrix, gram.mean, centred=centred)


def observed_in_float8(observe: ObserveGraph, plans: Mapping[str, ActivationPlan]) -> ObserveGraph:
    """An observer whose tensors are rounded as layers in FP8 read them.

    Args:
        observe: opens the float graph.
        plans: activations in FP8.
    """

    def opened(graph: LpGraph, tensors: Sequence[str]) -> RunFeeds:
        run = observe(graph, tensors)

        def rounded(feeds: Mapping[str, np.ndarray]) -> Feeds:
            values = dict(run(feeds))
            for name in values.keys() & plans.keys():
                values[name] = in_float8(values[name], plans[name].scale)
            return values

        return rounded

    return opened
