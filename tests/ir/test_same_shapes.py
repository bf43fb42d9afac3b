"""Shapes behind operators that ONNX's inference does not know."""

import numpy as np
import pytest

from lpcompile.ir.graph import LpGraph
from tests.support import Array, parse_model, run_model


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (21, "t = GroupNormalization <num_groups = 2> (x, g, g)"),
        (17, "t = com.microsoft.FastGelu (x)"),
        (17, "t, mean, spread, total = com.microsoft.SkipLayerNormalization (x, x, l, l)"),
        (17, "t = com.microsoft.QuickGelu <alpha = 1.5> (x)"),
        (17, "t = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)"),
        (13, "t = SimplifiedLayerNormalization (x, l)"),
    ],
)
def test_what_lies_behind_has_its_shape(opset: int, body: str) -> None:
    model = parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        f"m (float[2,4,6] x) => (float[] y) <float[4] g, float[6] l, float[6,5] w> {{ {body}  y = MatMul (t, w) }}",
        check=False,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    assert graph.value("t").shape == (2, 4, 6)
    assert graph.value("y").shape == (2, 4, 5)
    assert graph.value("y").dtype == np.float32
    assert next(n.op for n in graph.nodes()) in body  # the graph itself is as it was
    assert run_model(model, {"x": np.ones((2, 4, 6), np.float32)})["y"].shape == (2, 4, 5)


@pytest.mark.parametrize("opset", [14, 18])
@pytest.mark.parametrize(("width", "inputs"), [(128, "x, , "), (64, "x, k, k")])
def test_heads_that_share_keys_and_sums_behind_norms(opset: int, width: int, inputs: str) -> None:
    """Queries alone or with keys and values in one tensor; the sum that a norm gives beside its result."""
    model = parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        f"m (float[2,4,{width}] x, float[2,4,32] k, float[2,4,64] r, int32[2] n, int32[1] t) => (float[] y) "
        "<float[64] g, float[64,5] w> { "
        "a = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> "
        f"({inputs}, , , n, t)  b, , , s = com.microsoft.SkipSimplifiedLayerNormalization (r, a, g)  c = Add (a, s) "
        "d = Add (c, b)  y = MatMul (d, w) }",
        check=False,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    assert [graph.value(name).shape for name in "absd"] == [(2, 4, 64)] * 4
    assert graph.value("y").shape == (2, 4, 5)
    feeds: dict[str, Array] = {"x": np.ones((2, 4, width), np.float32), "k": np.ones((2, 4, 32), np.float32)}
    feeds |= {
        "r": np.ones((2, 4, 64), np.float32),
        "n": np.full(2, 3, np.int32),
        "t": np.full(1, 4, np.int32),
    }
    assert run_model(model, feeds)["y"].shape == (2, 4, 5)
