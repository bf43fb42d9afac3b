"""Layers that read channels which may be scaled: what is seen of their inputs, and how they will run."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lpcompile.analysis.calibration import Feeds
from lpcompile.analysis.channel_samples import POSITIONS, ChannelSample, ChannelSampler
from lpcompile.analysis.grams import THREADS, Grams, GramSum, memory_parts, readings_of
from lpcompile.analysis.layer_inputs import InputReading
from lpcompile.analysis.layer_kernels import choose_kernels
from lpcompile.analysis.product_sums import summing_bytes
from lpcompile.analysis.scaling_search import MOST_ROWS, Reader
from lpcompile.formats.planned import LEARNED
from lpcompile.ir.factor_flow import Part, Side
from lpcompile.ir.factor_rules import row_axis
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.scaling_groups import ScalingGroup
from lpcompile.pipeline import PassContext
from lpcompile.plan import ActivationOptions, Kernel, WeightPlan
from lpcompile.quant.rows import to_rows

ROWS_PER_INPUT, LEAST_ROWS = 4, 2048  # of the moments
SWEEP_BYTES = 1 << 28  # of what is seen in one sweep over the calls
LEVELS = {"uint8": 256, "uint4": 16}
USUAL = WeightPlan("int8", scale_rule="mse")  # where the formats of weights are yet to be chosen
USUAL_TABLE = "nf4"  # stands for tables that are yet to be learned


def group_parts(graph: LpGraph, groups: Sequence[ScalingGroup]) -> list[list[ScalingGroup]]:
    """Groups in their order, as many at a time as SWEEP_BYTES leave room for what is seen of their readers."""
    return memory_parts(groups, [_seen_bytes(graph, g) for g in groups], SWEEP_BYTES)


def _seen_bytes(graph: LpGraph, group: ScalingGroup) -> int:
    readings, _ = readings_of(graph, [p.node.name for p in group.of(Side.READS)])
    moments = sum(summing_bytes(r.groups, r.inputs) for r in set(readings.values()))
    return moments + 4 * group.size * POSITIONS


def observed(
    graph: LpGraph, groups: list[ScalingGroup], calls: Sequence[Feeds], ctx: PassContext
) -> tuple[dict[str, ChannelSample], Grams]:
    """One sweep over the calls: samples by tensor, moments by layer."""
    assert ctx.observe is not None
    readers = [p.node for g in groups for p in g.of(Side.READS)]
    axes: dict[str, int | None] = {
        x.name: row_axis(n, len(x.shape or ())) for n in readers if (x := n.inputs[0]) is not None
    }
    for index, name in ((g.tensors[v], v.name) for g in groups for v in g.limits):
        axes[name] = int(np.argmax(index.shape)) if index.size > 1 else None
    readings, left_out = readings_of(graph, [n.name for n in readers])
    samplers = {name: ChannelSampler(axis, len(calls)) for name, axis in axes.items()}
    sums = {
        r: GramSum(r, len(calls), max(LEAST_ROWS, ROWS_PER_INPUT * r.inputs), halves=False)
        for r in dict.fromkeys(readings.values())
    }
    run = ctx.observe(graph, list(axes))
    # Tensors are independent and numpy releases the interpreter lock: two at a time.
    with ThreadPoolExecutor(THREADS) as pool:
        for i, feeds in enumerate(calls):
            values = run(feeds)

            def sample(name: str, call: int = i, values: Feeds = values) -> None:
                samplers[name].add(values[name], np.random.default_rng([ctx.seed, call]))

            def count(reading: InputReading, call: int = i, values: Feeds = values) -> None:
                sums[reading].add(values[reading.tensor], np.random.default_rng([ctx.seed, call]))

            for found in (pool.map(sample, samplers), pool.map(count, sums)):
                list(found)
        matrices = dict(zip(sums, pool.map(GramSum.result, sums.values()), strict=True))
    grams = Grams()
    grams.left_out = left_out
    for name, reading in readings.items():
        if (gram := matrices[reading]) is None:
            grams.left_out[name] = "its input is empty in all samples"
        else:
            grams[name] = gram
    return {name: sampler.result() for name, sampler in samplers.items()}, grams


def planned_kernels(graph: LpGraph, ctx: PassContext) -> dict[str, Kernel]:
    """How each layer will run, as far as that is known."""
    if ctx.target is None:
        return {n.name: Kernel.INTEGER for n in graph.layers()}
    options = ctx.activations or ActivationOptions()
    chosen = choose_kernels(
        graph, ctx.target, calibrated=True, matmul=options.matmul, timed=options.timed, weights=ctx.weights
    )
    return {name: Kernel.FLOAT if name in ctx.keep_float else c.kernel for name, c in chosen.items()}


def reader_of(
    part: Part,
    grams: Grams,
    samples: dict[str, ChannelSample],
    kernels: Mapping[str, Kernel],
    ctx: PassContext,
) -> Reader:
    """A layer that reads scaled channels, as the search of their factors wants it.

    Args:
        part: the layer and the factors of its channels.
        grams: moments of its inputs, as observed.
        samples: of its input tensor, as observed.
        kernels: planned.
        ctx: says which formats will follow.
    """
    node = part.node
    x, w = node.inputs[:2]
    assert x is not None
    assert w is not None
    rows = to_rows(node.op, w.values)
    at = np.unique(np.linspace(0, len(rows) - 1, min(MOST_ROWS, len(rows))).astype(int))
    group = int(node.attrs.get("group", 1))
    options = ctx.activations or ActivationOptions()
    weight = ctx.weights or USUAL
    if weight.format == LEARNED:
        weight = WeightPlan(USUAL_TABLE, weight.granularity, weight.scale_rule, weight.scale_format)
    return Reader(
        rows[at],
        at // (len(rows) // group),
        part.index,
        grams[node.name],
        samples[x.name],
        kernels.get(node.name, Kernel.FLOAT),
        LEVELS[options.format],
        weight,
        centred=node.op != "MatMul",
    )
