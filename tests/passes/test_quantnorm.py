"""`quantnorm`: multipliers as asked, exact on every executor; norms that stayed; every reason; nothing twice."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.errors import PassOptionError
from lpcompile.formats.arrays import F64
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs, following_clamp
from lpcompile.ir.value import Value
from lpcompile.materialise import materialise
from lpcompile.materialise.dyadic import materialise_dyadic
from lpcompile.passes.quantnorm import FLOATS, FOLDED, NORM_FLOAT, TABLES, Quantnorm
from lpcompile.passes.snapped_scales import multipliers_of
from lpcompile.pipeline import PassContext
from lpcompile.plan import QuantPlan, RequantPlan
from lpcompile.quant.multipliers import dyadic, held_multipliers
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.registry import pass_class
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate, stored_weights
from lpcompile.runtime.reference_call import Call
from lpcompile.runtime.reference_weights import decode_rows
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import parse_model, random_feeds, run_model

PREACT = """m (float[2,3,8,8] x) => (float[2,5] y)
<float[6,3,3,3] w1, float[6] b1, float[6] g, float[6] b, float[6] mu, float[6] v = {0,0.5,1,1.5,2,3},
 float[6,6,3,3] w2, float[6] b2, float[6] c, float[6] d, float[6] e, float[6] u = {1,1,0.2,0.4,1,1},
 float[6,5] w3, float[5] b3> {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    [first] n = BatchNormalization <epsilon = 0.001> (a, g, b, mu, v)  r = Relu (n)
    [conv] h = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    [sum] s = Add (a, h)
    [last] m = BatchNormalization <epsilon = 0.001> (s, c, d, e, u)  q = Relu (m)
    p = GlobalAveragePool (q)  f = Flatten (p)  [head] y = Gemm (f, w3, b3)
}"""
CNN = """m (float[2,3,8,8] x) => (float[2,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8,8,1,1] w3, float[8] b3, float[8,5] w4> {
    [stem] a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  ra = Relu (a)
    [depthwise] b = Conv <group = 8, pads = [1, 1, 1, 1]> (ra, w2)  rb = Relu (b)
    [point] c = Conv (rb, w3, b3)  rc = Relu (c)
    p = GlobalAveragePool (rc)  f = Flatten (p)  [head] y = MatMul (f, w4)
}"""
WEIGHTS = "quantize-weights{format=fixp4,rule=mse}"
MODES = {
    "dyadic-8": "{bits=8}",
    "dyadic-3": "{bits=3}",
    "po2": "{mode=po2}",
    "snap-po2": "{mode=snap}",
    "snap-dyadic-3": "{mode=snap-dyadic,bits=3}",
}


def made(text: str, options: str, weights: str = WEIGHTS) -> Quantized:
    return quantized(text, f"{NO_COSTS},{weights},correct-bias,quantnorm{options}", calls=12)


def negative_and_no_slopes() -> onnx.ModelProto:
    """PREACT with a slope of each sign and of none."""
    model = parse_model(PREACT)
    for t in model.graph.initializer:
        if t.name in ("g", "c"):
            t.CopyFrom(
                onnx.numpy_helper.from_array(np.array([1, -0.7, 0, 0.4, -1.2, 1e-6], np.float32), t.name)
            )
    return model


@pytest.mark.sweep
@pytest.mark.parametrize("held", MODES)
def test_multipliers_are_what_the_plan_says_on_every_executor(held: str) -> None:
    found = made(CNN, MODES[held])
    assert {n: r.multiplier for n, r in found.graph.plan.requants.items()} == dict.fromkeys(
        ("stem", "depthwise", "point"), held
    )
    feeds = random_feeds(found.original, seed=99)
    for form in ("functions", "standard", "qdq"):
        proto = found.emitted(form)
        assert all(c.different == 0 for c in check_layers(proto, feeds))
    for name, values in multipliers_in_the_file(found.graph).items():
        np.testing.assert_array_equal(held_multipliers(values, held), values, err_msg=name)
    reference, _, numbers = materialise_dyadic(found.graph)
    proto = reference.to_proto()
    np.testing.assert_array_equal(evaluate(proto, feeds)["y"], run_model(proto, feeds)["y"])
    for requant in (numbers.requants[name] for name in found.graph.plan.requants):
        m, _ = dyadic(requant.m.astype(np.float64), 8)
        bits = {"po2": 1, "snap-po2": 1}.get(held, int(held[-1]) if held[-1].isdigit() else 1)
        assert (np.abs(m) % 2 ** (8 - bits) == 0).all()


def held_output(found: Quantized, name: str) -> Value:
    """The planned tensor that a layer fills, behind its clamp."""
    out = found.graph.node(name).outputs[0]
    assert out is not None
    clamp = following_clamp(out)
    held = out if clamp is None else clamp.outputs[0]
    assert held is not None
    assert held.name in found.graph.plan.activations
    return held


def multipliers_in_the_file(graph: LpGraph) -> dict[str, F64]:
    """By layer, what ONNX Runtime's kernels multiply accumulators with, from the numbers of the file."""
    found = {}
    proto = materialise(graph)[0].to_proto()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        call = Call.of(node) if node.domain == DOMAIN else None
        if call is None or call.family != "QuantConv" or node.name not in graph.plan.requants:
            continue
        inputs = [constants.get(name, np.zeros(0)) for name in node.input]
        rows = decode_rows(call, stored_weights(call, inputs))
        y_scale = inputs[3 + call.weight_inputs]
        found[node.name] = (inputs[1] * rows.scale / y_scale).astype(np.float64)
    assert len(found) == 3
    return found


@pytest.mark.sweep
@pytest.mark.parametrize("held", ["snap-po2", "snap-dyadic-3"])
@pytest.mark.parametrize("fmt", ["fixp4", "int8", "posit4"])
def test_snapping_leaves_no_error_of_multipliers_and_follows_with_the_weights(held: str, fmt: str) -> None:
    found = made(CNN, MODES[held], f"quantize-weights{{format={fmt},rule=mse}}")
    plan = found.graph.plan
    for name in ("stem", "depthwise", "point"):
        node = found.graph.node(name)
        out = held_output(found, name)
        m = multipliers_of(node, plan.layers[name], plan, out)
        np.testing.assert_allclose(held_multipliers(m, held), m, rtol=1e-6)
        layer = plan.layers[name]
        assert layer.tensor is not None
        assert layer.codes_sha256 == layer.tensor.digest()
    rough, snapped = made(CNN, "{mode=po2}").sqnr_db(), made(CNN, "{mode=snap}").sqnr_db()
    assert snapped > rough + 3


def test_eight_bits_cost_little() -> None:
    assert made(CNN, "{bits=8}", "quantize-weights{rule=mse}").sqnr_db() > 28
    assert made(CNN, "{bits=3}").sqnr_db() < made(CNN, "{bits=8}").sqnr_db()


@pytest.mark.sweep
@pytest.mark.parametrize("options", MODES.values())
def test_a_second_run_changes_nothing(options: str) -> None:
    found = made(PREACT, options)
    before = found.graph.plan
    report = found.rerun(f"quantnorm{options}")["quantnorm"]
    assert not report.changes
    assert found.graph.plan == before


def test_what_is_snapped_stays_when_only_bits_are_asked_for() -> None:
    found = made(CNN, "{mode=snap}")
    report = found.rerun("quantnorm{bits=8}")["quantnorm"]
    assert not report.changes
    assert "its weights suit their multipliers already" in {s.reason for s in report.skips}


@pytest.mark.parametrize("held", ["dyadic-8", "po2"])
def test_norms_that_no_layer_took_in(held: str) -> None:
    model = negative_and_no_slopes()
    found = quantized(model, f"{NO_COSTS},{WEIGHTS},correct-bias,quantnorm{MODES[held]}", calls=12)
    assert {n: found.graph.plan.requants[n].multiplier for n in ("first", "last")} == {
        "first": held,
        "last": held,
    }
    feeds = random_feeds(model, seed=3)
    proto = found.emitted()
    assert [n.op_type for n in proto.graph.node if n.name in ("first", "last")] == ["QuantNorm_int8"] * 2
    checks = check_layers(proto, feeds, positions=10_000)
    assert all(
        c.different == 0 for c in checks if c.op != "QuantAdd"
    )  # whose kernel rounds ties in its own way
    assert max(c.largest_step for c in checks) <= 1
    reference = materialise_dyadic(found.graph)[0].to_proto()
    assert [n.op_type for n in reference.graph.node if n.name in ("first", "last")] == ["QuantNorm"] * 2
    np.testing.assert_array_equal(evaluate(reference, feeds)["y"], run_model(reference, feeds)["y"])
    norm = channel_norm(found.graph.node("first"))
    assert norm is not None
    assert norm.centre is not None
    np.testing.assert_array_equal(found.graph.plan.requants["first"].centre, norm.centre)


@pytest.mark.sweep
@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("held", ["dyadic-8", "dyadic-3", "snap-po2"])
def test_sums_and_products_hold_8_bits_or_more(op: str, held: str) -> None:
    text = PREACT.replace("[sum] s = Add", f"[sum] s = {op}")
    found = made(text, MODES[held])
    assert found.graph.plan.requants["sum"].multiplier == "dyadic-8"
    _, _, numbers = materialise_dyadic(found.graph)
    r, plans = numbers.requants["sum"], found.graph.plan.activations
    a, b, y = (plans[n].scale for n in ("a", "h", "s"))
    wanted = np.array([a / y, b / y] if op == "Add" else [a * b / y])
    np.testing.assert_array_equal(r.m / 2.0**r.k, held_multipliers(wanted, "dyadic-8"))
    feeds = random_feeds(found.original, seed=5)
    reference = materialise_dyadic(found.graph)[0].to_proto()
    np.testing.assert_array_equal(evaluate(reference, feeds)["y"], run_model(reference, feeds)["y"])
    assert max(c.largest_step for c in check_layers(found.emitted(), feeds)) <= 1
    assert all(c.different == 0 for c in check_layers(found.emitted(), feeds) if not c.op.endswith(op))


def test_floats_of_the_portable_form_carry_the_slopes_that_are_held() -> None:
    model = negative_and_no_slopes()
    found = quantized(model, f"{NO_COSTS},{WEIGHTS},quantnorm{{mode=po2}}", calls=12)
    qdq = LpGraph.from_proto(found.emitted("qdq"))
    qdq.infer_shapes()
    _, _, numbers = materialise_dyadic(found.graph)
    plans = found.graph.plan.activations
    for name, x, y in (("first", "a", "r"), ("last", "s", "q")):
        norm, r = channel_norm(qdq.node(name)), numbers.requants[name]
        assert norm is not None
        slope = r.m / 2.0**r.k * plans[y].scale / plans[x].scale
        np.testing.assert_allclose(norm.scale, slope, rtol=1e-6, atol=1e-12)
    feeds = random_feeds(model, seed=4)
    apart = np.abs(run_model(found.emitted("qdq"), feeds)["y"] - run_model(found.emitted(), feeds)["y"])
    assert apart.max() < 0.1 * np.abs(run_model(model, feeds)["y"]).max()


def test_the_integers_of_a_norm_by_hand() -> None:
    """y(mean) = beta although the slope is off by up to 41 %, and gamma = 0 gives beta everywhere."""
    model = negative_and_no_slopes()
    found = quantized(model, f"{NO_COSTS},{WEIGHTS},quantnorm{{mode=po2}}", calls=12)
    _, _, numbers = materialise_dyadic(found.graph)
    node, r = found.graph.node("first"), numbers.requants["first"]
    plans = found.graph.plan.activations
    (x,) = data_inputs(node)
    clamp = node.outputs[0].consumers[0].outputs[0]  # type: ignore[union-attr]
    assert clamp is not None
    x_plan, y_plan = plans[x.name], plans[clamp.name]
    gamma, beta, mean, variance = (v.values.astype(np.float64) for v in node.inputs[1:] if v is not None)
    mean_code = mean / x_plan.scale + x_plan.zero_point
    at_mean = (r.m * mean_code + r.b) / 2.0**r.k - 0.5  # without floor
    np.testing.assert_allclose(at_mean, beta / y_plan.scale, atol=0.02)
    slope = r.m / 2.0**r.k * y_plan.scale / x_plan.scale
    wanted = gamma / np.sqrt(variance + 1e-3)
    assert slope[2] == 0
    ratio = slope[wanted != 0] / wanted[wanted != 0]
    assert ((ratio > 0.7) & (ratio < 1.42)).all()


def test_a_variance_of_nothing_and_a_slope_that_underflows() -> None:
    text = PREACT.replace("v = {0,0.5,1,1.5,2,3}", "v = {0,0,0,0,0,0}").replace(
        "<epsilon = 0.001> (a", "<epsilon = 1e30> (a"
    )
    found = made(text, "{bits=8}")
    feeds = random_feeds(found.original, seed=8)
    assert all(c.different == 0 for c in check_layers(found.emitted(), feeds) if c.op != "QuantAdd")
    reference = materialise_dyadic(found.graph)[0].to_proto()
    np.testing.assert_array_equal(evaluate(reference, feeds)["y"], run_model(reference, feeds)["y"])


def test_rows_and_layers_of_zeros() -> None:
    model = parse_model(CNN)
    for t in model.graph.initializer:
        if t.name in ("w1", "w3"):
            w = onnx.numpy_helper.to_array(t).copy()
            w[: 3 if t.name == "w1" else 8] = 0
            t.CopyFrom(onnx.numpy_helper.from_array(w, t.name))
    for options in MODES.values():
        found = quantized(model, f"{NO_COSTS},{WEIGHTS},correct-bias,quantnorm{options}", calls=6)
        feeds = random_feeds(model, seed=2)
        assert all(c.different == 0 for c in check_layers(found.emitted(), feeds))
        reference = materialise_dyadic(found.graph)[0].to_proto()
        np.testing.assert_array_equal(evaluate(reference, feeds)["y"], run_model(reference, feeds)["y"])


def test_groups_that_do_not_divide_the_inputs() -> None:
    weights = "quantize-weights{format=fixp4,granularity=group,group-size=5,rule=mse}"
    for options in MODES.values():
        found = made(CNN, options, weights)
        assert found.graph.plan.layers["point"].weight.granularity == "group5"
        feeds = random_feeds(found.original, seed=2)
        assert all(c.different == 0 for c in check_layers(found.emitted(), feeds))


def test_every_reason() -> None:
    found = made(CNN, "{mode=fold}")
    assert found.skip_reason("quantnorm", "stem") == FOLDED
    assert not found.graph.plan.requants
    assert made(CNN, "").skip_reason("quantnorm", "head") == FLOATS
    norm = "[first] n = BatchNormalization <epsilon = 0.001> (a"
    text = PREACT.replace(norm, "k = Sin (a)  [first] n = BatchNormalization (k")
    floats = quantized(text, f"{NO_COSTS},{WEIGHTS},quantnorm", calls=6)
    assert floats.skip_reason("quantnorm", "first") == NORM_FLOAT
    tables = made(CNN, "{mode=snap}", "quantize-weights{format=lut4,rule=mse}")
    if any(p.weight.codebooks for p in tables.graph.plan.layers.values()):
        assert TABLES in {s.reason for s in tables.reports["quantnorm"].skips}


@pytest.mark.sweep
@pytest.mark.parametrize(
    "learning",
    [
        "requantize-weights",
        "reconstruct-blocks{iterations=20}",
        "tune-weights{epochs=1,estimator=lsq,scales=learned}",
        "tune-scales{epochs=1}",
    ],
)
def test_learning_leaves_snapped_scales_alone(learning: str) -> None:
    weights = "quantize-weights{format=fixp4,rule=mse,rounding=gptq}"
    found = made(CNN, "{mode=snap}", weights)
    before = {n: channel_scales(p.tensor) for n, p in found.graph.plan.layers.items() if p.tensor is not None}
    found.rerun(learning)
    for name in found.graph.plan.requants:
        tensor = found.graph.plan.layers[name].tensor
        assert tensor is not None
        np.testing.assert_array_equal(channel_scales(tensor), before[name])
    assert not found.rerun("quantnorm{mode=snap}")["quantnorm"].changes


@pytest.mark.parametrize("options", [{"mode": "shift"}, {"bits": 1}, {"bits": 17}])
def test_options_that_mean_nothing(options: dict[str, object]) -> None:
    with pytest.raises(PassOptionError):
        pass_class("quantnorm").configured(options)


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["ort", "cim"])
def test_the_recipe_replays_and_can_be_edited(target: str, tmp_path: Path) -> None:
    model = parse_model(PREACT)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    first = lpcompile.compile(model, target=target, calibration=calls, recipe="pikelpn")
    path = tmp_path / "d.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(model, target=target, calibration=calls, decisions=path)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(
        deterministic=True
    )
    assert not [w for w in again.report["warnings"] if "decisions" in w]
    table = '[requants."last"]\nmultiplier = "{}"'
    path.write_text(first.decisions.replace(table.format("dyadic-8"), table.format("po2")), "utf-8")
    edited = lpcompile.compile(model, target=target, calibration=calls, decisions=path)
    assert table.format("po2") in edited.decisions
    path.write_text(
        first.decisions.replace(table.format("dyadic-8"), table.format("dyadic-8").replace("last", "none")),
        "utf-8",
    )
    gone = lpcompile.compile(model, target=target, calibration=calls, decisions=path)
    assert "'none': its multiplier is not held as the decisions say" in gone.report["warnings"]
    if target == "cim":
        assert first.report["verification"]["bit_exact_sim"]
        assert edited.report["verification"]["bit_exact_sim"]


def test_nothing_is_held_without_a_plan() -> None:
    graph = LpGraph.from_proto(parse_model(PREACT))
    graph.infer_shapes()
    report = Quantnorm().run(graph, PassContext())
    assert not report.changes
    assert graph.plan == QuantPlan()
    assert QuantPlan().with_requant("a", RequantPlan("po2")).without({"a"}, "").requants == {}
