"""Sizes of pools with ceil_mode: whatever ONNX's inference says, they are those of ONNX Runtime."""

import itertools

import numpy as np
import pytest

from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, random_feeds, run_model

TEXT = """
    g (float[N,2,{n},3] x) => (float[a,b,c,d] y) {{
        a = {op} <ceil_mode = 1, kernel_shape = [{k}, 1], strides = [{s}, 2], pads = [{b}, 0, {e}, 0]> (x)
        c = {op} <ceil_mode = 1, kernel_shape = [1, 1], strides = [{s}, 2]> (a)
        y = Relu (c)
    }}"""


@pytest.mark.sweep
@pytest.mark.parametrize("opset", [11, 17, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_sizes_are_those_of_the_runtime(op: str, opset: int) -> None:
    for n, k, s, b, e in itertools.product((1, 4, 5), (2, 3), (1, 3), (0, 1), (0, 1)):
        if n + b + e < k:
            continue
        model = parse_model(TEXT.format(op=op, n=n, k=k, s=s, b=b, e=e), opset=opset, check=False)
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        graph = LpGraph.from_proto(model)
        graph.infer_shapes()
        found = run_model(model, random_feeds(model))["y"].shape
        assert graph.value("y").shape == ("N", *found[1:]), (n, k, s, b, e)


def test_a_shape_declared_by_an_older_inference_gives_way() -> None:
    text = """g (float[1,2,3,1] x) => (float[1,2,2,1] y) {
        y = MaxPool <ceil_mode = 1, kernel_shape = [1, 1], strides = [3, 1]> (x) }"""
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    assert graph.value("y").shape == (1, 2, 1, 1)
    assert run_model(graph.to_proto(), {"x": np.zeros((1, 2, 3, 1), np.float32)})["y"].shape == (1, 2, 1, 1)


def test_an_input_that_is_an_output_keeps_its_shape() -> None:
    text = """g (float[N,2,3,1] x) => (float[N,2,1,1] y, float[N,2,3,1] x) {
        y = MaxPool <ceil_mode = 1, kernel_shape = [1, 1], strides = [3, 1]> (x) }"""
    graph = LpGraph.from_proto(parse_model(text, check=False))
    graph.infer_shapes()
    assert graph.value("x").shape == ("N", 2, 3, 1)
    graph.infer_shapes({"x": (4, 2, 3, 1)})
    assert graph.value("x").shape == (4, 2, 3, 1)
    assert graph.value("y").shape == (4, 2, 1, 1)
