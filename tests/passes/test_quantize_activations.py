"""`quantize-activations`: it fires, outputs stay near, a second run decides the same, options are checked."""

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.analysis.calibration import Calibration
from lpcompile.errors import CalibrationError, PassOptionError
from lpcompile.passes.quantize_activations import QuantizeActivations
from lpcompile.plan import Kernel
from tests.networks import TOYS, shipped, toy
from tests.quantizing import GRAPH_PASSES, NO_COSTS, PLAN_PASSES, quantized, same_plan
from tests.support import parse_model, random_feeds

CNN = """m (float[1,3,8,8] x) => (float[1,C,H,W] y)
    <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[4,16,1,1] w3> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Add (c, r)
        j = Concat <axis = 1> (s, r)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (j)
        y = Conv (p, w3)
    }"""
MLP = """m (float[4,6] x) => (float[4,3] y) <float[6,8] w, float[8] b, float[8,3] v> {
    h = Gemm (x, w, b)
    r = Relu (h)
    y = MatMul (r, v)
}"""


@pytest.mark.parametrize("name", [n for n in TOYS if n != "if_body"])
def test_toys_stay_near_their_floats(name: str) -> None:
    found = quantized(toy(name))
    assert found.reports["quantize-activations"].changes
    assert found.sqnr_db() > 25


SIZES = """m (float[N,3,H,W] x) => (float[N,C,H1,W1] y)
    <float[10,3,3,3] w1, float[10] b1, float[16,10,3,3] w2, float[64,16,3,3] w3, float[128,64,3,3] w4> {
        a = Conv (x, w1, b1)  r = Relu (a)  b = Conv (r, w2)  c = Conv (b, w3)  y = Conv (c, w4)
    }"""


def test_sizes_that_a_model_leaves_open_are_those_of_the_samples() -> None:
    """Layers of few channels are faster as floats; that was asked of layers of known sizes alone."""
    fixed = parse_model(SIZES.replace("N,3,H,W", "1,3,64,64"))
    calls, found = [random_feeds(fixed, seed=i) for i in range(6)], []
    for model in (parse_model(SIZES), fixed):
        made = lpcompile.compile(model, calibration=calls, recipe="int8")
        found.append([row["activation_format"] for row in made.report["layers"]])
    assert found[0] == found[1]
    assert set(found[0]) == {"float32", "uint8"}


@pytest.mark.sweep
@pytest.mark.parametrize("text", [CNN, MLP])
@pytest.mark.parametrize("form", ["functions", "standard", "qdq"])
def test_every_form_of_the_plan_gives_the_same_numbers(text: str, form: str) -> None:
    assert quantized(text).sqnr_db(form=form) > 28


@pytest.mark.parametrize("text", [CNN, MLP])
def test_a_second_run_decides_the_same(text: str) -> None:
    found = quantized(text, NO_COSTS)
    before = found.graph.copy()
    found.rerun(NO_COSTS)
    assert same_plan(before, found.graph)


def test_the_order_of_the_samples_does_not_matter() -> None:
    model = parse_model(CNN)
    one, other = quantized(model, NO_COSTS), quantized(model, NO_COSTS)
    assert other.context.calibration is not None
    backwards = [random_feeds(model, seed=i) for i in range(3)]
    for found, calls in ((one, backwards), (other, backwards[::-1])):
        found.context.calibration = Calibration(calls)
        found.rerun(NO_COSTS)
    assert same_plan(one.graph, other.graph)


def test_tie_groups_share_scale_and_zero_point_and_hold_every_member() -> None:
    found = quantized(CNN, "quantize-activations{cost=none,rule=minmax}")
    plans = found.graph.plan.activations
    groups = {p.tie_group for p in plans.values()}
    assert len(groups) < len(plans)
    for name, plan in plans.items():
        assert plan == plans[plan.tie_group]
        statistics = found.context.statistics[name]
        half = plan.scale / 2 * 1.001
        assert plan.low - half <= statistics.low
        assert plan.high + half >= statistics.high
    assert plans["j"].tie_group == plans["p"].tie_group
    assert plans["p"].reason.startswith("shared by ")


def test_a_clamp_or_a_pool_shares_the_scale_of_what_it_reads() -> None:
    plans = quantized(CNN, NO_COSTS).graph.plan.activations
    assert plans["j"].scale == plans["p"].scale


@pytest.mark.thorough
def test_rules_differ_where_they_should() -> None:
    model = parse_model(CNN)
    widths = {}
    for rule in ("minmax", "percentile", "mse", "kl", "middle"):
        plans = quantized(model, f"quantize-activations{{cost=none,rule={rule},percentile=99}}").graph.plan
        assert {p.rule for p in plans.activations.values()} == {rule}
        widths[rule] = plans.activations["y"].high - plans.activations["y"].low
    assert widths["mse"] <= widths["middle"] <= widths["minmax"]
    assert max(widths["percentile"], widths["kl"]) < widths["minmax"]


def test_auto_cuts_nothing_of_what_a_matmul_reads_and_takes_least_error_at_4_bits() -> None:
    words = quantized(MLP, NO_COSTS).graph.plan.activations
    assert words["r"].rule == "minmax"
    assert words["x"].rule == "middle"
    narrow = quantized(CNN, "quantize-activations{cost=none,format=uint4,ends=uint8}").graph.plan.activations
    assert (narrow["r"].format, narrow["r"].rule) == ("uint4", "mse")
    assert (narrow["x"].format, narrow["x"].rule) == ("uint8", "middle")


def test_4_bit_activations_that_no_tensor_takes_are_warned_of() -> None:
    ends = quantized(MLP, "quantize-activations{cost=none,format=uint4,ends=uint8}")
    assert [w for w in ends.context.warnings if w.startswith("no activation is uint4")]
    inner = quantized(CNN, "quantize-activations{cost=none,format=uint4,ends=uint8}")
    assert not inner.context.warnings


TRANSFORMER = """m (float[N,4,6] x) => (float[N,4,3] y)
<float[6] g, float[6] c, float[6,6] q, float[6,6] k, float[6,8] w, float[8,3] v> {
    n = LayerNormalization (x, g, c)  a = MatMul (n, q)  b = MatMul (n, k)  s = Add (a, b)  r = Relu (s)
    h = MatMul (r, w)  t = Tanh (h)  y = MatMul (t, v)
}"""


def test_4_bit_inputs_of_matmuls_are_static_and_of_least_error() -> None:
    """At run time ranges are of 8 bits; the inputs of the first layer keep these, whoever else reads them."""
    found = quantized(TRANSFORMER, "quantize-activations{format=uint4,cost=none}")
    plans = found.graph.plan
    assert {p.kernel for p in plans.layers.values()} <= {Kernel.INTEGER, Kernel.FLOAT_OUT}
    assert (plans.activations["n"].format, plans.activations["t"].format) == ("uint8", "uint8")
    assert (plans.activations["r"].format, plans.activations["r"].rule) == ("uint4", "mse")
    asked = quantized(TRANSFORMER, "quantize-activations{format=uint4,matmul=dynamic}").graph.plan
    assert Kernel.DYNAMIC in {p.kernel for p in asked.layers.values()}


def test_4_bit_inputs_keep_their_codes_below_16() -> None:
    found = quantized(CNN, "quantize-activations{cost=none,format=uint4,ends=uint4},quantize-weights")
    plans = found.graph.plan.activations
    assert {plans[t].format for t in ("x", "r", "p")} == {"uint4"}
    assert all(p.code_max == 15 or p.format == "uint8" for p in plans.values())
    assert found.sqnr_db() > 4
    assert found.sqnr_db(form="qdq") == pytest.approx(found.sqnr_db(), abs=1.5)


def test_without_samples_nothing_is_static() -> None:
    found = quantized(MLP, calls=0)
    assert found.graph.plan.activations == {}
    assert {layer.kernel for layer in found.layers.values()} == {Kernel.DYNAMIC}
    assert found.sqnr_db() > 30
    conv = quantized(CNN, calls=0)
    assert {layer.kernel for layer in conv.layers.values()} == {Kernel.WEIGHT_ONLY}
    assert conv.graph.plan.elementwise == {}
    assert conv.sqnr_db() > 35


def test_nodes_kept_float_on_request() -> None:
    found = quantized(CNN, NO_COSTS)
    second = [n.name for n in found.graph.layers()][1]
    add = found.graph.nodes("Add")[0].name
    found.context.keep_float = frozenset({second, add})
    reports = found.rerun(NO_COSTS)
    assert found.graph.plan.layers[second].kernel is Kernel.FLOAT
    skips = {s.node: s.reason for s in reports["quantize-activations"].skips}
    assert skips[second] == skips[add] == "kept float on request"


def test_skipped_nodes_are_reported_with_the_reason_of_the_analysis() -> None:
    found = quantized(MLP.replace("y = MatMul (r, v)", "t = MatMul (r, v)  y = Softmax (t)"), NO_COSTS)
    assert found.skip_reason("quantize-activations", "Softmax") == "no integer form of Softmax"
    double = quantized("m (double[4,6] x) => (double[4,3] y) <double[6,3] w> { y = MatMul (x, w) }", NO_COSTS)
    assert double.skip_reason("quantize-activations", "MatMul") == "weights are float64, not float32"
    assert double.graph.plan.activations == {}


def test_samples_that_make_an_activation_infinite_are_refused() -> None:
    found = quantized(MLP, NO_COSTS)
    found.context.calibration = Calibration([{"x": np.full((4, 6), 3e38, np.float32)}])
    with pytest.raises(CalibrationError, match="activation is not finite"):
        found.rerun(NO_COSTS)


def test_progress_is_told_for_every_call() -> None:
    found, told = quantized(MLP, NO_COSTS), []
    found.context.progress = lambda what, done, total: told.append((what, done, total))
    found.rerun(NO_COSTS)
    calls = [(done, total) for what, done, total in told if what == "calibrating"]
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))] != []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("format=int8", "option 'format' is one of uint8, uint4, not 'int8'"),
        ("ends=uint2", "option 'ends' is one of uint8, uint4, not 'uint2'"),
        ("rule=max", "option 'rule' is one of auto, minmax, percentile, mse, kl, middle, not 'max'"),
        ("matmul=fast", "option 'matmul' is one of auto, static, dynamic, not 'fast'"),
        ("percentile=20", "option 'percentile' lies between 50 and 100, not 20.0"),
        ("percentile=nan", "option 'percentile' lies between 50 and 100, not nan"),
    ],
)
def test_wrong_options(option: str, message: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(PassOptionError) as caught:
        QuantizeActivations.configured({key: value})
    assert caught.value.message == f"pass 'quantize-activations': {message}"
    assert caught.value.hint == "see 'lpcompile passes quantize-activations'"


def test_shipped_networks_are_integer_from_the_first_layer_to_the_last() -> None:
    found = quantized(onnx.load(shipped("digits_resnet")), PLAN_PASSES, graph_passes=GRAPH_PASSES)
    assert {layer.kernel for layer in found.layers.values()} <= {Kernel.INTEGER, Kernel.FLOAT_OUT}
    adds = {n.name for n in found.graph.nodes("Add")}
    assert adds
    assert adds <= found.graph.plan.elementwise.keys()
