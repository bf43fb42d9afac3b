"""`assign-formats`: within the budget, never worse than one format, and every choice has its reason."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.assignment.scored import Scored, ScoredLayer
from lpcompile.errors import BudgetError, PassOptionError, PipelineError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.pipeline import PassContext
from lpcompile.plan import Kernel, QuantPlan
from tests.quantizing import NO_COSTS, Quantized, quantized

CNN = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[5,16] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu (c)
    g = GlobalAveragePool (s)  f = Flatten (g)  y = Gemm <transB = 1> (f, w3, b3)
}"""
ROUND = "quantize-weights{format=fixp4,scale-format=ufloat8_e4m4,rule=output-mse,sweeps=0},correct-bias"
SMALL = "formats=fixp4+posit4+nf4+int8,granularities=channel+group16"


SCORES: dict[str, Any] = {}  # no budget changes them


def assigned(options: str, *, calls: int = 20) -> Quantized:
    return quantized(CNN, f"{NO_COSTS},assign-formats{{{options}}},{ROUND}", calls=calls)


def assigned_within(bound: str) -> Quantized:
    """A choice among the candidates of SMALL, which are scored once for all tests."""
    passes = f"{NO_COSTS},assign-formats{{{SMALL},{bound}}},{ROUND}"
    return quantized(CNN, passes, calls=20, scored=SCORES)


def scored(found: Quantized) -> Sequence[ScoredLayer]:
    (known,) = (v for v in found.context.scored.values() if isinstance(v, Scored))
    return known.layers


def bits_of(found: Quantized) -> float:
    total = weights = 0.0
    for node in found.graph.layers():
        tensor, weight = found.graph.plan.layers[node.name].tensor, node.inputs[1]
        assert tensor is not None
        assert weight is not None
        total += tensor.bits_per_element * weight.values.size
        weights += weight.values.size
    return total / weights


@pytest.mark.sweep
@pytest.mark.parametrize("bound", [4.4, 5.0, 6.5])
def test_the_budget_is_kept_and_used(bound: float) -> None:
    found = assigned_within(f"avg-bits={bound}")
    assert found.reports["assign-formats"].metrics["avg_bits"] <= bound
    assert bits_of(found) <= bound + 0.02  # the float32 unit of 8-bit scales is counted in the file
    assert bits_of(found) > bound - 1.5


def test_more_bits_lose_less() -> None:
    losses = [
        assigned_within(f"avg-bits={b},joint=0").reports["assign-formats"].metrics["predicted_loss"]
        for b in (4.4, 5.0, 6.5)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_the_choice_is_the_best_of_all_within_the_budget() -> None:
    """Against every combination of candidates."""
    found = assigned_within("avg-bits=5,joint=0")
    layers = scored(found)
    weights = sum(layer.weights for layer in layers)
    best = min(
        sum(c.loss for c in combination)
        for combination in itertools.product(*(layer.candidates for layer in layers))
        if sum(c.costs["bits"] for c in combination) <= 5 * weights
    )
    assert found.reports["assign-formats"].metrics["predicted_loss"] == pytest.approx(best, rel=1e-9)
    assert found.reports["assign-formats"].metrics["gap"] == pytest.approx(0, abs=1e-9)


def test_it_is_never_worse_than_one_format_on_the_measured_loss() -> None:
    metrics = assigned_within("avg-bits=4.6").reports["assign-formats"].metrics
    singles = [v for k, v in metrics.items() if "with int8" in k]
    assert len(singles) >= 3
    assert metrics["measured_loss[chosen]"] <= min(singles) + 1e-12


def test_predicted_losses_of_single_layers_are_those_measured() -> None:
    """One layer in 8 bits after the other: small errors, where the second order is exact."""
    found = assigned("formats=int8,granularities=channel,joint=0,samples=40")
    run = found.context.observe
    assert run is not None
    assert found.context.calibration is not None
    calls = found.context.calibration.deciding
    reference = [run(found.graph, ["y"])(c)["y"] for c in calls]
    power = sum(float(np.square(y).sum()) for y in reference)
    for layer in scored(found):
        node = found.graph.node(layer.name)
        weight = node.inputs[1]
        rounded = found.graph.plan.layers[layer.name].tensor
        assert weight is not None
        assert rounded is not None
        changed = found.graph.copy()
        values = as_weight(node, rounded.dequantize())
        shift = found.graph.plan.layers[layer.name].bias_correction
        bias = node.inputs[2]
        assert bias is not None
        assert shift is not None
        changed.set_weights(changed.node(layer.name), values, bias.values + shift)
        noise = sum(
            float(np.square(run(changed, ["y"])(c)["y"] - y).sum())
            for c, y in zip(calls, reference, strict=True)
        )
        predicted = min(c.loss for c in layer.candidates) * 2
        assert predicted == pytest.approx(noise / power, rel=0.5)


@pytest.mark.thorough
def test_layers_by_name_take_what_the_user_says() -> None:
    found = _with_formats(("Conv_0=posit4/group16", "Gemm.*=int8"))
    first, second, last = (found.graph.plan.layers[n.name] for n in found.graph.layers())
    assert (first.weight.format, first.weight.granularity) == ("posit4", "group16")
    assert "narrowed by 'Conv_0=posit4/group16'" in first.reason
    assert last.weight.format == "int8"
    assert second.weight.format in ("fixp4", "posit4", "nf4", "int8")


@pytest.mark.thorough
def test_a_layer_that_the_user_wants_float_stays_float() -> None:
    found = _with_formats(("Gemm.*=float32",))
    layer = found.layer("Gemm")
    assert layer.kernel is Kernel.FLOAT
    assert layer.reason == "kept float by 'Gemm.*=float32'"


def test_a_pattern_for_no_layer_is_named() -> None:
    with pytest.raises(PipelineError, match="no layer matches 'nobody'"):
        _with_formats(("nobody=int8",))


def _with_formats(formats: tuple[str, ...]) -> Quantized:
    found = quantized(CNN, NO_COSTS)
    found.context.layer_formats = formats
    found.reports = found.rerun(f"assign-formats{{{SMALL},avg-bits=8}},{ROUND}")
    return found


def test_an_impossible_budget_names_the_nearest_point() -> None:
    with pytest.raises(BudgetError) as caught:
        assigned_within("avg-bits=3")
    assert "bits" in str(caught.value)
    assert caught.value.hint


def test_without_samples_relative_errors_decide_and_a_warning_says_so() -> None:
    found = assigned(f"{SMALL},avg-bits=4.6", calls=0)
    assert found.reports["assign-formats"].metrics["avg_bits"] <= 4.6
    assert any("no samples" in w for w in found.context.warnings)


def test_posits_keep_their_share() -> None:
    found = assigned("formats=posit4+fixp4,granularities=channel,posit-fraction=0.15,joint=0")
    posit = total = 0
    for node in found.graph.layers():
        weight = node.inputs[1]
        assert weight is not None
        total += weight.values.size
        posit += weight.values.size * (found.graph.plan.layers[node.name].weight.format == "posit4")
    assert posit <= 0.15 * total


@pytest.mark.thorough
def test_other_budgets_need_no_new_scores() -> None:
    found = quantized(CNN, NO_COSTS)
    found.rerun(f"assign-formats{{{SMALL},avg-bits=5}}")
    found.context.observe = None  # nothing can be scored any more
    found.graph.plan = replace(found.graph.plan)
    report = found.rerun(f"assign-formats{{{SMALL},avg-bits=6}}")["assign-formats"]
    assert report.metrics["avg_bits"] <= 6


def test_decisions_that_were_given_stay() -> None:
    found = quantized(CNN, NO_COSTS)
    found.context.decisions = QuantPlan()
    report = found.rerun("assign-formats")["assign-formats"]
    assert not report.changes
    assert all("as decided in the file" in s.reason for s in report.skips)


@pytest.mark.parametrize("options", [{"method": "x"}, {"loss": "x"}, {"formats": "int99"}, {"samples": "0"}])
def test_options_that_mean_nothing_are_named(options: dict[str, str]) -> None:
    with pytest.raises((PassOptionError, Exception)) as caught:
        AssignFormats.configured(options)
    assert any(v in str(caught.value) for v in options.values()) or "samples" in str(caught.value)


@pytest.mark.thorough
def test_the_same_seed_makes_the_same_choice() -> None:
    one, two = (assigned(f"{SMALL},avg-bits=4.6") for _ in range(2))
    assert {k: v.weight for k, v in one.layers.items()} == {k: v.weight for k, v in two.layers.items()}


def test_generated_samples_are_no_basis_for_gradients() -> None:
    found = quantized(CNN, NO_COSTS)
    context: PassContext = found.context
    assert context.calibration is not None
    context.calibration = Calibration(context.calibration.calls, generated=True)
    found.rerun(f"assign-formats{{{SMALL},avg-bits=5}}")
    assert any("no samples" in w for w in context.warnings)


def test_the_nearest_point_is_named_as_the_budget_was_asked_and_can_be_had() -> None:
    with pytest.raises(BudgetError, match="avg-bits cannot be brought to 3: the least is 4") as caught:
        assigned_within("joint=0,avg-bits=3")
    least = caught.value.nearest["avg-bits"]
    found = assigned_within(f"joint=0,avg-bits={least!r}")
    assert least - 1e-5 < found.reports["assign-formats"].metrics["avg_bits"] <= least


def test_a_bound_that_nobody_asked_for_gives_way_with_a_warning() -> None:
    found = assigned_within("joint=0,avg-bits=3,nearest=true")
    assert any("avg-bits cannot be brought to 3" in w for w in found.context.warnings)
    assert found.reports["assign-formats"].metrics["avg_bits"] < 5


MATRICES = """m (float[2,N,16] x) => (float[2,N,8] y) <float[2,16,16] w, float[16,8] v> {
    [stack] t = MatMul (x, w)  r = Relu (t)  [head] y = MatMul (r, v)
}"""


def test_layers_that_stay_float_may_use_up_the_budget() -> None:
    """Two of three weights stay 32 bits: the others take the least, or the nearest point is named."""
    few = "formats=nf4+int8,granularities=channel,joint=0"
    found = quantized(MATRICES, f"{NO_COSTS},assign-formats{{{few},avg-bits=4.5,nearest=true}},{ROUND}")
    assert found.graph.plan.layers["head"].weight.format == "nf4"
    least = found.reports["assign-formats"].metrics["avg_bits"]
    assert least == pytest.approx((2 * 256 * 32 + bits_of_layer(found, "head")) / (2 * 256 + 128), rel=1e-3)
    with pytest.raises(BudgetError, match=rf"cannot be brought to 4.5: the least is {least:.6g}"):
        quantized(MATRICES, f"{NO_COSTS},assign-formats{{{few},avg-bits=4.5}}")


def bits_of_layer(found: Quantized, name: str) -> float:
    tensor = found.graph.plan.layers[name].tensor
    assert tensor is not None
    return tensor.bits_per_element * tensor.codes.size


def test_layers_without_integer_arithmetic_take_formats_too() -> None:
    found = quantized(
        """m (float[N,4,6,6] x) => (float[N,3,12,12] y) <float[4,3,2,2] w> {
            [up] y = ConvTranspose <strides = [2, 2]> (x, w) }""",
        f"{NO_COSTS},assign-formats{{{SMALL},avg-bits=6}},{ROUND}",
    )
    plan = found.graph.plan.layers["up"]
    assert plan.kernel is Kernel.WEIGHT_ONLY
    assert plan.weight.format != "float32"


@pytest.mark.thorough
def test_a_model_that_gives_nothing_but_classes_is_scored_by_its_logits() -> None:
    text = CNN.replace("(float[N,5] y)", "(int64[N] z)").replace(
        "(f, w3, b3)", "(f, w3, b3)  z = ArgMax <axis=1, keepdims=0> (y)"
    )
    options = f"{SMALL},avg-bits=5"
    found = quantized(text, f"{NO_COSTS},assign-formats{{{options}}},{ROUND}", calls=20)
    metrics, wanted = (
        found.reports["assign-formats"].metrics,
        assigned(options).reports["assign-formats"].metrics,
    )
    assert metrics["measured_loss[chosen]"] == pytest.approx(wanted["measured_loss[chosen]"], rel=1e-4)


def test_layers_that_share_weights_are_measured_with_formats_of_their_own() -> None:
    """The chosen assignment measured once more by a float model in which the weights are two constants."""
    text = """m (float[N,16] x) => (float[N,16] y) <float[16,16] w> {
        [one] t = MatMul (x, w)  r = Relu (t)  [two] y = MatMul (r, w) }"""
    found = quantized(
        text, f"{NO_COSTS},assign-formats{{formats=nf4+posit4+int8,granularities=channel,avg-bits=7}},{ROUND}"
    )
    plans = found.graph.plan.layers
    assert plans["one"].weight != plans["two"].weight
    rounded = {n: as_weight(found.graph.node(n), p.tensor.dequantize()) for n, p in plans.items() if p.tensor}
    w = found.graph.node("one").inputs[1].values  # type: ignore[union-attr]
    assert found.context.calibration is not None
    noise = signal = 0.0
    for call in found.context.calibration.deciding:
        wanted = np.maximum(call["x"] @ w, 0).astype(np.float64) @ w
        noise += np.square(np.maximum(call["x"] @ rounded["one"], 0) @ rounded["two"] - wanted).sum()
        signal += np.square(wanted).sum()
    measured = found.reports["assign-formats"].metrics["measured_loss[chosen]"]
    assert measured == pytest.approx(noise / signal, rel=1e-3)


@pytest.mark.thorough
def test_what_was_rounded_to_be_measured_is_not_rounded_again() -> None:
    found = assigned(f"{SMALL},avg-bits=5")
    plans = found.graph.plan.layers
    assert all(found.context.rounded[n, p.weight].tensor is p.tensor for n, p in plans.items())


def test_a_layer_without_weights_stays_float() -> None:
    text = "m (float[N,6] x) => (float[N,4] y, float[N,0] z) <float[6,4] v, float[6,0] w> {\n"
    text += "y = MatMul (x, v)  [none] z = MatMul (x, w) }"
    found = quantized(text, f"{NO_COSTS},assign-formats{{{SMALL},avg-bits=12}},{ROUND}")
    assert found.skip_reason("assign-formats", "none") == "it has no weights"


@pytest.mark.thorough
def test_learned_roundings_are_scored_as_gptq_and_learned_once_formats_are_decided() -> None:
    plain, learned = (assigned(f"{SMALL},avg-bits=5,rounding={r}") for r in ("gptq", "adaround"))
    pairs = zip(scored(plain), scored(learned), strict=True)
    for one, other in pairs:
        assert [c.loss for c in one.candidates] == [c.loss for c in other.candidates]
    for name, layer in learned.layers.items():
        four_bits = layer.weight.format != "int8"
        assert layer.weight.rounding == ("adaround" if four_bits else "kernel-sums")
        assert layer.weight.format == plain.layers[name].weight.format
        assert (layer.codes_sha256 == plain.layers[name].codes_sha256) is not four_bits
        if four_bits:
            assert (layer.local_sqnr_db or 0) > (plain.layers[name].local_sqnr_db or 0)
    with pytest.raises(PassOptionError, match="'rounding' is one of"):
        AssignFormats.configured({"rounding": "magic"})
