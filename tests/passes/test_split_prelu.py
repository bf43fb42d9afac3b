"""`split-prelu`: the same outputs in operators that have integer forms; slopes held as shifts; every reason."""

import numpy as np
import pytest

import lpcompile
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.split_prelu import NOT_BY_CHANNEL, NOT_CONSTANT, SplitPrelu
from lpcompile.pipeline import PassContext
from lpcompile.runtime.layer_check import check_layers
from tests.support import parse_model, random_feeds, run_model

NET = """m (float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[6,3,3,3] w1, float[6] b1, float[{slopes}] s, float[6,1,1] bx, float[4,6,1,1] w2> {{
    [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  [shift] d = Sub (a, bx)  [act] r = PRelu (d, s)
    [back] e = Sub (r, bx)  [last] y = Conv (e, w2)
}}"""


@pytest.mark.parametrize(("slopes", "ops"), [("1", ["LeakyRelu"]), ("6,1,1", ["Relu", "Clip", "Mul", "Add"])])
def test_the_same_outputs(slopes: str, ops: list[str]) -> None:
    model = parse_model(NET.format(slopes=slopes))
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    report = SplitPrelu().run(graph, PassContext())
    assert [c.node for c in report.changes] == ["act"]
    assert [n.op for n in graph.nodes() if n.name.startswith("act")] == ops
    feeds = random_feeds(model, seed=1)
    np.testing.assert_array_equal(run_model(graph.to_proto(), feeds)["y"], run_model(model, feeds)["y"])
    assert not SplitPrelu().run(graph, PassContext()).changes


@pytest.mark.parametrize(
    ("slopes", "reason"), [("1,6,8,8", NOT_BY_CHANNEL), ("8", NOT_BY_CHANNEL), ("6,1,1 t) (", NOT_CONSTANT)]
)
def test_every_reason(slopes: str, reason: str) -> None:
    text = NET.format(slopes=slopes)
    if reason == NOT_CONSTANT:
        text = NET.format(slopes="6,1,1").replace("float[1,3,8,8] x)", "float[1,3,8,8] x, float[6,1,1] s)")
        text = text.replace("float[6,1,1] s, float[6,1,1] bx", "float[6,1,1] bx")
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    report = SplitPrelu().run(graph, PassContext())
    assert not report.changes
    assert [s.reason for s in report.skips] == [reason]


@pytest.mark.sweep
@pytest.mark.parametrize("target", ["ort", "cim"])
@pytest.mark.parametrize("held", ["{mode=po2}", "{bits=8}"])
def test_slopes_run_on_integers(target: str, held: str) -> None:
    model = parse_model(NET.format(slopes="6,1,1"))
    calls = [random_feeds(model, seed=i) for i in range(6)]
    passes = "fold-batchnorm,split-prelu,quantize-activations{cost=none},quantize-weights,quantnorm"
    made = lpcompile.compile(model, target=target, calibration=calls, passes=passes + held)
    named = {n.name: n.op_type for n in made.model.graph.node}
    assert named["act/scaled"].startswith("QuantNorm")
    multiplier = "po2" if "po2" in held else "dyadic-8"
    assert f'[requants."act/scaled"]\nmultiplier = "{multiplier}"' in made.decisions
    assert all(c.different == 0 for c in check_layers(made.model, calls[0])) or target == "ort"
    if target == "cim":
        assert made.report["verification"]["bit_exact_sim"]
    if held == "{bits=8}":
        assert made.report["quality"]["sqnr_db_output"] > 28
