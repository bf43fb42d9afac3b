"""`widen-sums`: layers that read what sums read get a tensor of their own; floats stay, and integers are exact."""

import numpy as np
import pytest

import lpcompile
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.materialise.qdq import rounded_floats
from lpcompile.passes.widen_sums import WidenSums
from lpcompile.pipeline import PassContext, Pipeline
from lpcompile.plan import ActivationOptions
from lpcompile.records import PassReport
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.quantizing import Quantized, quantized
from tests.support import assert_same_outputs, parse_model, random_feeds, run_model

FOLDED = frozenset({Fact.BATCHNORM_FOLDED})
PASSES = "widen-sums,quantize-activations{cost=none,format=uint4},quantize-weights{format=fixp4}"
NARROW = ActivationOptions("uint4")
BLOCKS = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,1,1] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,1,1] w3, float[8,8,1,1] w4, float[5,8] w5> {
    a = Conv (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  e = Add (r, c)  s = Relu (e)
    d = Conv (s, w3)  k = Conv (s, w4)  l = Add (d, k)  u = Add (l, s)
    g = GlobalAveragePool (u)  f = Flatten (g)  y = Gemm <transB = 1> (f, w5)
}"""
MOVED = """m (float[2,4,8,8] x) => (float[2,4,4,4] y)
<float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3> {
    a = Conv (x, w1)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)  r = Relu (p)
    c = Conv (r, w2)  e = Mul (p, c)  y = Conv (e, w3)
}"""


def widened(text: str, options: ActivationOptions = NARROW) -> tuple[LpGraph, PassReport]:
    graph = LpGraph.from_proto(parse_model(text))
    (report,) = Pipeline((WidenSums(),), given=FOLDED).run(graph, PassContext(activations=options))
    (again,) = Pipeline((WidenSums(),), given=FOLDED).run(graph, PassContext(activations=options))
    assert again.changes == []
    return graph, report


def reader(graph: LpGraph, output: str) -> Node:
    node = graph.value(output).producer
    assert node is not None
    return node


@pytest.mark.parametrize(("text", "own"), [(BLOCKS, ["r", "s"]), (MOVED, ["r"])])
def test_layers_that_read_what_is_summed_get_their_own(text: str, own: list[str]) -> None:
    model = parse_model(text)
    graph, report = widened(text)
    assert [c.node for c in report.changes] == own
    assert_same_outputs(model, graph.to_proto(), rtol=0)
    for name in own:
        borders = [n for n in graph.value(name).consumers if n.op == "Identity"]
        assert len(borders) == 1  # one for all layers that read it
        assert not any(n.op == "Conv" for n in graph.value(name).consumers)


def test_sums_keep_reading_the_tensor_itself() -> None:
    graph, _ = widened(BLOCKS)
    assert [v.name for v in reader(graph, "e").inputs if v is not None] == ["r", "c"]
    assert [v.name for v in reader(graph, "u").inputs if v is not None] == ["l", "s"]


def test_eight_bits_for_all_are_a_reason_to_leave_it() -> None:
    graph, report = widened(BLOCKS, ActivationOptions("uint8"))
    assert not graph.nodes("Identity")
    assert {s.node: s.reason for s in report.skips}["r"].startswith("layers read it in as many bits as")


def test_what_layers_alone_read_stays() -> None:
    text = BLOCKS.replace("u = Add (l, s)", "u = Relu (l)").replace("e = Add (r, c)", "e = Conv (c, w3)")
    _, report = widened(text)
    assert report.changes == []
    assert report.skips == []


@pytest.mark.thorough
@pytest.mark.parametrize("text", [BLOCKS, MOVED])
def test_integers_are_those_of_numpy(text: str) -> None:
    model = parse_model(text)
    calls = [random_feeds(model, seed=i) for i in range(5)]
    made = lpcompile.compile(model, target="cim", calibration=calls, recipe="w4a4")
    assert all(c.different == 0 for c in check_layers(made.model, calls[0], positions=10_000))
    found = run_model(made.model, calls[1])["y"]
    np.testing.assert_array_equal(evaluate(made.model, calls[1])["y"], found)


def test_sums_have_eight_bits_and_layers_four() -> None:
    found = quantized(BLOCKS, PASSES)
    formats = {t: a.format for t, a in found.graph.plan.activations.items()}
    assert {formats[t] for t in ("r", "s", "c", "e", "l", "u") if t in formats} == {"uint8"}
    assert formats["r/narrow"] == formats["s/narrow"] == "uint4"
    assert_allclose_to_rounding(found)


def assert_allclose_to_rounding(found: Quantized) -> None:
    """ONNX Runtime on the emitted graph gives what floats with the planned roundings give."""
    feeds = random_feeds(found.original, seed=77)
    wanted = run_model(rounded_floats(found.graph).to_proto(), feeds)["y"]
    steps = np.abs(wanted).max() / 50  # of 8 bits; one of 4 would be three times as much
    np.testing.assert_allclose(run_model(found.emitted(), feeds)["y"], wanted, atol=steps)
