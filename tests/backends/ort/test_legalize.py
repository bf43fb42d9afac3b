"""Forms that ONNX Runtime runs faster, with the same numbers."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from lpcompile.backends.ort.legalize import legalize
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, random_feeds, run_model

RESIDUAL = """g (float[1,8,16] x) => (float[1,8,16] y) <float[16,16] w, float[16] s, float[16] b>
{ p = MatMul (x, w)
  r = Add (p, x)
  y = LayerNormalization <axis=-1> (r, s, b) }"""


def optimised_ops(model: ModelProto, folder: Path) -> collections.Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def test_the_slow_fusion_is_escaped_and_the_numbers_stay(tmp_path: Path) -> None:
    before = parse_model(RESIDUAL)
    assert optimised_ops(before, tmp_path)["SkipLayerNormalization"] == 1, (
        "ONNX Runtime no longer fuses: remove"
    )
    graph = LpGraph.from_proto(before)
    assert len(legalize(graph)) == 1
    after = graph.to_proto()
    assert optimised_ops(after, tmp_path)["SkipLayerNormalization"] == 0
    feeds = random_feeds(before)
    np.testing.assert_allclose(
        run_model(after, feeds)["y"], run_model(before, feeds)["y"], rtol=1e-4, atol=1e-5
    )
    assert legalize(graph) == []


def test_a_bias_and_an_add_before_something_else_stay() -> None:
    text = """g (float[1,8,16] x) => (float[1,8,16] y, float[1,8,16] z) <float[16] k, float[16] s, float[16] b>
    { r = Add (x, k)
      y = LayerNormalization <axis=-1> (r, s, b)
      z = Add (x, x) }"""
    graph = LpGraph.from_proto(parse_model(text))
    assert legalize(graph) == []
    assert graph.ops().count("Add") == 2
