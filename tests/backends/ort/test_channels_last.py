"""Codes made from floats for a residual trunk: same numbers, no Transpose at each addition."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lpcompile.backends.ort.channels_last import channels_last
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.inline import inlined
from lpcompile.materialise import materialise
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, WeightPlan
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import to_rows
from tests.support import parse_model, random_feeds, run_model

TRUNK = """g (float[{n},8,6,4] x) => (float[{n},8,6,4] y) <float[8,8,3,3] v, float[8,8,3,3] w> {{
    a = Elu (x)
    p = Conv <pads=[1,1,1,1]> (a, v)
    b = {op} (p, a)
    q = Conv <pads=[1,1,1,1]> (b, w)
    c = {op} (q, b)
    r = Conv <pads=[1,1,1,1]> (c, v)
    y = Identity (r) }}"""


def quantized(n: int | str = 2, op: str = "Add") -> LpGraph:
    """The trunk with every convolution and addition on integers, `a` quantised from floats."""
    graph = LpGraph.from_proto(parse_model(TRUNK.format(n=n, op=op)))
    graph.infer_shapes()
    layers = {}
    for node in graph.layers():
        weight = node.inputs[1]
        assert weight is not None
        tensor = fit(to_rows(node.op, weight.values), resolve("int8"))
        layers[node.name] = LayerPlan(Kernel.INTEGER, WeightPlan("int8"), tensor)
    activations = {t: ActivationPlan("uint8", 0.05, 128, t) for t in "apbqcr"}
    adds = {node.name: "between quantised layers" for node in graph.nodes(op)}
    graph.plan = QuantPlan(layers, activations, adds)
    return materialise(graph)[0]


def transposes(model: onnx.ModelProto, folder: Path) -> int:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = collections.Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    return ops["Transpose"]


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_additions_lose_their_transposes_and_the_numbers_stay(op: str, tmp_path: Path) -> None:
    graph = quantized(op=op)
    before = inlined(graph.to_proto())
    assert channels_last(graph) == ["a/quantize"]
    after = inlined(graph.to_proto())
    onnx.checker.check_model(after, full_check=True)
    feeds = random_feeds(before)
    np.testing.assert_array_equal(run_model(after, feeds)["y"], run_model(before, feeds)["y"])
    assert transposes(after, tmp_path) == 2  # one where codes are made, one where they end
    assert transposes(before, tmp_path) > 2, "ONNX Runtime moves them by itself now: remove"
    assert channels_last(graph) == []


def test_a_symbolic_batch_stays_symbolic() -> None:
    graph = quantized("N")
    assert len(channels_last(graph)) == 1
    x = np.random.default_rng(0).normal(size=(3, 8, 6, 4)).astype(np.float32)
    got, wanted = (run_model(g.to_proto(), {"x": x})["y"] for g in (graph, quantized("N")))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("change", ["only convolutions", "height not known"])
def test_what_gains_nothing_stays(change: str) -> None:
    graph = quantized()
    if change == "only convolutions":
        first = graph.node("Add_2")
        first.set_input(3, first.inputs[0])
    else:
        graph.set_type(graph.value("a_quantized"), np.dtype(np.uint8), (2, 8, None, 4))
    assert channels_last(graph) == []
