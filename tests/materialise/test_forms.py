"""Functions, the same inlined, and QDQ pairs: three renderings of one plan."""

import numpy as np
import onnx
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.inline import inlined
from lpcompile.plan import Kernel
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import LAYERS, LUT4, SIDE_STORINGS, Storing, compiled, layer_graph, plan_by_hand

NET = """g (float[1,5,8,8] x) => (float[1,9] y, float[1,6,8,8] s)
    <float[6,5,3,3] w1, float[6] b1, float[6,1,3,3] w2, float[6] b2, float[12,9] w3, float[9] b3,
     int64[2] shape = {1, 12}> {
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=6> (r, w2, b2)
    s = Add (c, r)
    q = Concat <axis=1> (s, r)
    p = GlobalAveragePool (q)
    f = Reshape (p, shape)
    y = Gemm (f, w3, b3)
}"""
STORINGS = [
    Storing(),
    Storing("int4", "group32", "ufloat8_e4m4"),
    Storing("nf4", scale_format="ufloat8_e4m4"),
    Storing("posit4", "group32"),
    Storing(LUT4, row_tables=True),
    Storing("int8", "tensor"),
    SIDE_STORINGS[0],
]


def net(storing: Storing, held: str = "uint8", kernel: Kernel = Kernel.INTEGER) -> LpGraph:
    model = parse_model(NET)
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    formats = dict.fromkeys(["x", "r", "c", "s", "q", "p", "f", "y"], held) | {"x": "uint8", "y": "uint8"}
    moved = ["n_r", "n_s", "n_q", "n_p", "n_f"]
    ties = {"q": "r", "s": "r", "f": "p"}
    return plan_by_hand(
        LpGraph.from_proto(model), formats, storing=storing, elementwise=moved, ties=ties, kernel=kernel
    )


@pytest.mark.sweep
@pytest.mark.parametrize("storing", STORINGS, ids=str)
@pytest.mark.parametrize("held", ["uint8", "uint4"])
def test_inlined_functions_are_the_same_graph(storing: Storing, held: str) -> None:
    model = compiled(net(storing, held))
    flat = inlined(model)
    assert not flat.functions
    assert {n.domain for n in flat.graph.node} == {""}
    assert [o.domain for o in flat.opset_import] == [""]
    onnx.checker.check_model(flat, full_check=True)
    feeds = random_feeds(model)
    found, wanted = run_model(flat, feeds), run_model(model, feeds)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.sweep
@pytest.mark.parametrize("storing", STORINGS, ids=str)
@pytest.mark.parametrize("held", ["uint8", "uint4"])
def test_qdq_pairs_agree_within_steps(storing: Storing, held: str) -> None:
    """A QDQ graph rounds ties of elementwise kernels in its own way, so a step may carry through a layer."""
    graph = net(storing, held)
    functions, pairs = compiled(graph), inlined(compiled(graph, "qdq"))
    assert {n.domain for n in pairs.graph.node} == {""}
    feeds = random_feeds(functions)
    wanted, found = run_model(functions, feeds), run_model(pairs, feeds)
    assert list(found) == list(wanted) == ["y", "s"]
    for name, steps in (("s", 1), ("y", 2)):
        distance = np.abs(found[name] - wanted[name]) / graph.plan.activations[name].scale
        np.testing.assert_allclose(
            distance, np.rint(distance), atol=1e-3
        )  # both give numbers of the plan's grid
        assert distance.max() <= steps * 1.001
        assert np.mean(distance > 0.5) < 0.05


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("storing", STORINGS, ids=str)
def test_one_layer_as_pairs_gives_the_same_codes(layer: str, storing: Storing) -> None:
    """The runtime fuses the pairs into the very node that the function's body is."""
    graph = plan_by_hand(layer_graph(layer), ["x", "y"], storing=storing)
    functions, pairs = compiled(graph), inlined(compiled(graph, "qdq"))
    feeds = random_feeds(functions)
    np.testing.assert_array_equal(run_model(pairs, feeds)["y"], run_model(functions, feeds)["y"])


@pytest.mark.parametrize("layer", [n for n in LAYERS if not n.startswith("conv")])
def test_float_results_as_pairs(layer: str) -> None:
    graph = plan_by_hand(layer_graph(layer), ["x"], storing=Storing("nf4"), kernel=Kernel.FLOAT_OUT)
    functions, pairs = compiled(graph), inlined(compiled(graph, "qdq"))
    feeds = random_feeds(functions)
    wanted, found = run_model(functions, feeds)["y"], run_model(pairs, feeds)["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "storing",
    [Storing("nf4"), Storing(LUT4, row_tables=True), Storing("posit4es1"), Storing("float8_e4m3fn")],
    ids=str,
)
def test_stored_weights_as_pairs(layer: str, storing: Storing) -> None:
    graph = plan_by_hand(layer_graph(layer), [], storing=storing, kernel=Kernel.WEIGHT_ONLY)
    functions, pairs = compiled(graph), inlined(compiled(graph, "qdq"))
    feeds = random_feeds(functions)
    wanted, found = run_model(functions, feeds)["y"], run_model(pairs, feeds)["y"]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("layer", [n for n in LAYERS if not n.startswith("conv")])
def test_ranges_measured_at_run_time_are_the_same_in_every_form(layer: str) -> None:
    graph = plan_by_hand(layer_graph(layer), [], storing=Storing("int8"), kernel=Kernel.DYNAMIC)
    functions, pairs = compiled(graph), inlined(compiled(graph, "qdq"))
    feeds = random_feeds(functions)
    np.testing.assert_array_equal(run_model(pairs, feeds)["y"], run_model(functions, feeds)["y"])
