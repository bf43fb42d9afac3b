"""Shapes behind a Reshape to what the graph computes, whatever the opset."""

import pytest

from lpcompile.ir.graph import LpGraph
from tests.support import parse_model

FLAT = """m (float[2,6,1,40] x) => (float[A,B,C] y) <int64[1] zero = {0}, int64[1] two = {2}, int64[1] rest = {-1}> {
    s = Shape (x)  t = Slice (s, zero, two, zero)  c = Concat <axis = 0> (t, rest)  r = Reshape (x, c)  y = Relu (r)
}"""
NORM = "BatchNormalization (x, s, b, mean, var)"
TRAINED = f"""m (float[2,6,4] x) => (float[A,B,C] y) <float[6] s, float[6] b, float[6] mean, float[6] var> {{
    y, m, v, p, q = {NORM}
}}"""
IN_A_BRANCH = f"""m (float[2,6,4] x) => (float[A,B,C] y)
<bool c = {{1}}, float[6] s, float[6] b, float[6] mean, float[6] var> {{
    y = If (c) <then_branch = g () => (float[2,6,4] t) {{ t, m, v, p, q = {NORM} }},
        else_branch = h () => (float[2,6,4] e) {{ e = Identity (x) }}>
}}"""


@pytest.mark.parametrize("opset", [13, 14, 18])
def test_a_computed_target_is_followed(opset: int) -> None:
    graph = LpGraph.from_proto(parse_model(FLAT, opset=opset))
    graph.infer_shapes()
    assert graph.value("r").shape == (2, 6, 40)
    assert graph.opset == opset
    assert graph.to_proto().opset_import[0].version == opset


@pytest.mark.parametrize("text", [TRAINED, IN_A_BRANCH])
def test_batch_norms_in_training_are_what_they_were(text: str) -> None:
    graph = LpGraph.from_proto(parse_model(text, opset=13, check=False))
    graph.infer_shapes()
    assert graph.value("y").shape == (2, 6, 4)
