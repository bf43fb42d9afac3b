"""Metrics of rounding errors for the layers of a compilation, gathered once and shared by all passes that round."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lpcompile.analysis.grams import Gram, gather_grams, readings_of
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.correct_bias import bias_obstacle
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC
from lpcompile.quant.damping_choice import chosen_damping
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.rows import to_rows

THREADS = 2


def input_metrics(graph: LpGraph, ctx: PassContext, names: Sequence[str]) -> Mapping[str, InputMetric]:
    """Metrics of layers by name; those without samples, or whose matrix is too large, have none.

    They depend on the graph, its activations and the samples alone, not on who asked before: a replay rounds alike.

    Args:
        graph: float graph whose plan knows kernels and activations.
        ctx: keeps them.
        names: of layers.
    """
    calibration = ctx.calibration
    missing = [n for n in names if n not in ctx.without_metric and not _known(graph, n, ctx.metrics.get(n))]
    if not missing:
        return ctx.metrics
    if calibration is None or calibration.generated or ctx.observe is None:
        ctx.without_metric |= dict.fromkeys(missing, "no calibration data, so its inputs are not known")
        return ctx.metrics
    grams = gather_grams(
        graph,
        missing,
        ctx.observe,
        calibration.deciding,
        seed=ctx.seed,
        progress=lambda done, total: ctx.progress("gathering moments of inputs", done, total),
    )
    ctx.without_metric |= grams.left_out
    readings, _ = readings_of(graph, [n.name for n in graph.layers()])
    first = {reading: name for name, reading in reversed(readings.items())}
    settings = {name: (first[readings[name]], *_setting(graph, name)) for name in grams}
    # Readings are independent and numpy releases the interpreter lock: two at a time.
    with ThreadPoolExecutor(THREADS) as pool:
        different = {setting: name for name, setting in settings.items()}
        made = pool.map(lambda item: _metric(graph, grams[item[1]], *item[0]), different.items())
        shared = dict(zip(different, made, strict=True))
    stale = ctx.metrics.keys() & set(missing)
    for key in [k for k in ctx.rounded if k[0] in stale]:
        del ctx.rounded[key]
    ctx.metrics |= {name: shared[setting] for name, setting in settings.items()}
    return ctx.metrics


def _known(graph: LpGraph, name: str, metric: InputMetric | None) -> bool:
    """Whether a metric is that of the layer as it is planned now."""
    return metric is not None and (metric.centred, metric.step) == _setting(graph, name)


def _setting(graph: LpGraph, name: str) -> tuple[bool, float]:
    """Whether the bias takes the mean of errors, and the step of the input's quantiser."""
    node, kernel = graph.node(name), graph.plan.layers[name].kernel
    x = node.inputs[0]
    plan = None if x is None or kernel not in STATIC else graph.plan.activations.get(x.name)
    return not bias_obstacle(node, kernel), 0.0 if plan is None else plan.scale


def _metric(graph: LpGraph, gram: Gram, first: str, centred: bool, step: float) -> InputMetric:
    """One metric for all layers that read alike; the weights of the first one in the graph choose the damping."""
    node = graph.node(first)
    weight = node.inputs[1]
    assert weight is not None
    halves = [InputMetric.of(h.matrix, h.mean, centred=centred, step=step).matrix for h in gram.halves]
    damping = chosen_damping(to_rows(node.op, weight.values), halves)
    return InputMetric.of(gram.matrix, gram.mean, centred=centred, step=step, damping=damping)
