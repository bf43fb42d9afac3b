"""Which ranges may be learned, and that biases fit the accumulator whatever they become."""

from dataclasses import replace

import numpy as np

from lpcompile.ir.planned_bias import planned_bias
from lpcompile.materialise.storage import quantize_bias
from lpcompile.passes.learned_range import learnable_ranges
from lpcompile.quant.nearest_codes import channel_scales
from tests.quantizing import quantized

MLP = """m (float[4,16] x) => (float[4,6] y) <float[16,12] w1, float[12] b1, float[12,12] w2, float[12] b2,
 float[12,6] w3> {
    h = Gemm (x, w1, b1)
    r = Relu (h)
    k = Gemm (r, w2, b2)
    q = Relu (k)
    y = MatMul (q, w3)
}"""


def test_widths() -> None:
    plan = quantized(MLP, "quantize-activations{cost=none,format=uint4,ends=uint8},quantize-weights").graph
    activations = plan.plan.activations
    narrow = {p.tie_group for p in activations.values() if p.code_max < 255}
    assert narrow
    assert set(learnable_ranges(plan, "narrow")) == narrow
    assert set(learnable_ranges(plan, "all")) == {p.tie_group for p in activations.values()} > narrow
    assert not learnable_ranges(plan, "fixed")


def test_the_bias_fits_at_the_least_scale() -> None:
    graph = quantized(MLP, "quantize-activations{cost=none},quantize-weights{format=int8}").graph
    (first, *_) = graph.layers()
    plan = graph.plan.layers[first.name]
    assert plan.tensor is not None
    huge = np.full(12, 2.0e4, np.float32)
    plan = replace(plan, bias_correction=huge)
    graph.plan = graph.plan.with_layer(first.name, plan)
    bias = planned_bias(first, plan)
    assert plan.tensor is not None
    x = first.inputs[0]
    assert x is not None
    read = graph.plan.activations[x.name]
    least = learnable_ranges(graph, "all")[read.tie_group]
    assert 0 < least < read.scale
    scale = (channel_scales(plan.tensor) / 4).astype(np.float32)  # as far as training lets it fall
    ints = quantize_bias(bias, least, scale)
    assert ints is not None
    assert np.abs(ints.astype(np.int64)).max() <= 2**30 * (1 + 1e-6)
