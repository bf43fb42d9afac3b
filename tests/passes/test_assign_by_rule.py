"""`assign-formats` by a greedy rule or another sensitivity, and the recipe `mixed-posit`."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import lpcompile
from lpcompile.assignment.scored import Scored, ScoredLayer
from lpcompile.errors import PassOptionError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.report.text import summary
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import parse_model, random_feeds

CNN = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[48,16] w3, float[48] b3,
 float[5,48] w4, float[5] b4> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu (c)
    g = GlobalAveragePool (s)  f = Flatten (g)
    h = Gemm <transB = 1> (f, w3, b3)  i = Relu (h)  y = Gemm <transB = 1> (i, w4, b4)
}"""
ROUND = "quantize-weights{format=fixp4,scale-format=ufloat8_e4m4,rule=output-mse,sweeps=0},correct-bias"
MIXED = "formats=fixp4+posit4,granularities=channel"


def heavy_tailed() -> ModelProto:
    """Weights with a kurtosis far above 5, where posits are the better format."""
    model = parse_model(CNN, opset=17)
    rng = np.random.default_rng(3)
    for t in model.graph.initializer:
        if len(t.dims) > 1:
            values = rng.standard_t(2.2, tuple(t.dims)).astype(np.float32)
            t.CopyFrom(numpy_helper.from_array(values / np.float32(np.abs(values).mean() * 9), t.name))
    return model


def assigned(options: str) -> Quantized:
    return quantized(heavy_tailed(), f"{NO_COSTS},assign-formats{{{MIXED},{options}}},{ROUND}", calls=20)


def scored(found: Quantized) -> Sequence[ScoredLayer]:
    (known,) = (v for v in found.context.scored.values() if isinstance(v, Scored))
    return known.layers


def posits(found: Quantized) -> set[str]:
    return {n for n, layer in found.layers.items() if layer.weight.format == "posit4"}


def by_hand(layers: Sequence[ScoredLayer], share: float, *, ratio: bool) -> set[str]:
    """The rule of notes 2.8: most saved (a weight) first, what does not fit is passed over."""
    saved = {}
    for layer in layers:
        loss = {c.weight.format: c.loss for c in layer.candidates}
        saved[layer.name] = loss["fixp4"] - loss["posit4"]
    size = {layer.name: layer.weights for layer in layers}
    left, taken = share * sum(size.values()), set[str]()
    for name in sorted(saved, key=lambda n: -saved[n] / (size[n] if ratio else 1)):
        if saved[name] > 0 and size[name] <= left:
            left -= size[name]
            taken.add(name)
    return taken


@pytest.mark.sweep
@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("rule", ["paper-greedy", "ratio-greedy"])
def test_a_greedy_rule_is_followed_as_it_stands(rule: str, share: float) -> None:
    found = assigned(f"posit-fraction={share},method={rule}")
    assert posits(found) == by_hand(scored(found), share, ratio=rule == "ratio-greedy")
    assert found.reports["assign-formats"].metrics["measurements"] == 0


@pytest.mark.thorough
def test_no_greedy_rule_predicts_less_loss_than_the_knapsack() -> None:
    losses = {
        method: assigned(f"posit-fraction=0.25,joint=0,method={method}").reports["assign-formats"].metrics
        for method in ("exact", "paper-greedy", "ratio-greedy")
    }
    least = losses["exact"]["predicted_loss"]
    assert all(least <= m["predicted_loss"] * (1 + 1e-12) for m in losses.values())


def test_a_greedy_rule_needs_two_formats() -> None:
    with pytest.raises(PassOptionError, match="from one of two formats"):
        AssignFormats.configured({"method": "paper-greedy", "formats": "posit4"})


@pytest.mark.sweep
@pytest.mark.parametrize("rule", ["s1", "hessian", "measured"])
def test_other_sensitivities_choose_within_the_share(rule: str) -> None:
    found = assigned(f"posit-fraction=0.3,sensitivity={rule},joint=0")
    layers = scored(found)
    weights = sum(layer.weights for layer in layers)
    assert sum(layer.weights for layer in layers if layer.name in posits(found)) <= 0.3 * weights
    assert posits(found), "heavy tails: some layer gains by any rule"


@pytest.mark.thorough
def test_losses_by_the_words_of_the_paper_go_with_the_error_not_its_square() -> None:
    """S1 by definition; the squares of its ratios are those of S3."""
    first, third = (scored(assigned(f"posit-fraction=0.3,sensitivity={s},joint=0")) for s in ("s1", "s3"))
    for one, other in zip(first, third, strict=True):
        (a, b), (c, d) = ([x.loss for x in layer.candidates] for layer in (one, other))
        assert a**2 * d == pytest.approx(b**2 * c, rel=1e-6)
    assert sum(layer.candidates[0].loss > 0 for layer in third) >= 2, "an estimated trace may be below 0"


@pytest.mark.thorough
def test_measured_losses_are_near_the_predicted_ones() -> None:
    exact, measured = (scored(assigned(f"posit-fraction=0.3,sensitivity={s},joint=0")) for s in ("s2", "s4"))
    logs = [np.log([c.loss for x in layers for c in x.candidates]) for layers in (exact, measured)]
    assert np.corrcoef(logs)[0, 1] > 0.9


def test_an_unknown_sensitivity_is_named() -> None:
    with pytest.raises(PassOptionError, match="'sensitivity' is one of fisher, gradient, hessian, measured"):
        AssignFormats.configured({"sensitivity": "s5"})


def test_the_recipe_takes_posits_for_a_tenth_of_the_weights_and_reports_what_they_cost() -> None:
    model = heavy_tailed()
    samples = {"x": np.concatenate([random_feeds(model, seed=i)["x"] for i in range(40)])}
    found = lpcompile.compile(model, calibration=samples, recipe="mixed-posit", effort=0)
    totals = found.report["totals"]
    formats = {r["name"]: r["weight_format"] for r in found.report["layers"]}
    assert set(formats.values()) <= {"fixp4", "posit4", "float32"}
    assert 0 < totals["posit_fraction"] <= 0.1
    assert 0 < totals["posit_mac_fraction"] < 1
    assert "of the MACs" in summary(found.report)
