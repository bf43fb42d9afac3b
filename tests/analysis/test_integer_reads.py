"""What reads codes and what reads floats: as the emitted model does it."""

import numpy as np
import pytest

from lpcompile.analysis.integer_reads import with_separate_reads
from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.analysis.stored_weights import with_stored_weights
from lpcompile.quant.error import sqnr_db
from tests.quantizing import quantized
from tests.support import random_feeds, run_model

# post-norm: the norm's result goes to a matrix and, as floats, around it
BLOCK = """m (float[2,4,6] x) => (float[2,4,6] y) <float[6] g, float[6] c, float[6,6] q, float[6,6] v, float[6,6] w> {
    n = LayerNormalization (x, g, c)  h = MatMul (n, q)  t = Erf (h)  k = MatMul (t, v)
    s = Add (n, k)  m2 = LayerNormalization (s, g, c)  y = MatMul (m2, w)
}"""
CNN = """m (float[2,3,8,8] x) => (float[2,4,8,8] y)
<float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[4,8,1,1] w3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Add (c, r)  y = Conv (s, w3)
}"""
# weights of 8 bits: with 4, biases in units of the accumulator are coarse
ALL_4 = "quantize-activations{cost=none,format=uint4,ends=uint4},quantize-weights,correct-bias"


def test_a_norm_that_matrices_and_an_add_read_is_rounded_for_the_matrices_alone() -> None:
    graph = quantized(BLOCK, ALL_4).graph
    changed, reads = with_separate_reads(graph)
    assert set(reads) == {"n"}
    readers = {n.op for n in changed.value(reads["n"]).consumers}
    assert readers == {"MatMul"}
    assert {n.op for n in changed.value("n").consumers} == {"Add", "Identity"}


def test_what_integer_nodes_make_is_codes_for_all() -> None:
    graph = quantized(CNN, ALL_4).graph
    assert with_separate_reads(graph)[1] == {}


@pytest.mark.parametrize("text", [BLOCK, CNN])
def test_floats_rounded_this_way_give_what_the_emitted_model_gives(text: str) -> None:
    """The emitted model is integers; only ties and the order of sums tell them apart."""
    found = quantized(text, ALL_4)
    feeds = random_feeds(found.original, seed=77)
    floats = run_model(found.original, feeds)["y"]
    emitted = run_model(found.emitted(), feeds)["y"]
    rounded = with_rounded_activations(with_stored_weights(found.graph), found.graph.plan.activations)
    assert found.context.observe is not None
    simulated = found.context.observe(rounded, ["y"])(feeds)["y"]
    last = found.graph.plan.activations.get("y")
    if last is not None:  # a graph output is read as floats here
        codes = np.clip(np.rint(simulated / last.scale) + last.zero_point, 0, last.code_max)
        simulated = (codes - last.zero_point) * last.scale
    assert sqnr_db(emitted, simulated) > sqnr_db(floats, emitted) + 10
