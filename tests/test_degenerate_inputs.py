"""Networks and samples at the edge of what moments of inputs can tell: they compile, run, and stay near the model."""

import functools

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from tests.networks import Calls, without_costs
from tests.support import parse_model, run_model

# one input a row; channels that Relu makes zero for good, whose groups have no moments at all; nine inputs a group;
# one output; a MatMul of one input without a bias
NET = """m (float[1,3,6,6] x) => (float[1,5] y)
<float[3,1,1,1] w1, float[3] b1, float[8,3,3,3] w2, float[8] b2, float[8,1,3,3] w3, float[8] b3, float[4,8,1,1] w4,
 float[4,1] w5, float[1,5] w6> {
    [one_input] a = Conv <group = 3> (x, w1, b1)  ra = LeakyRelu (a)
    [dying] b = Conv <pads = [1, 1, 1, 1]> (ra, w2, b2)  rb = Relu (b)
    [depthwise] c = Conv <group = 8, pads = [1, 1, 1, 1]> (rb, w3, b3)  rc = LeakyRelu (c)
    [pointwise] d = Conv (rc, w4)
    p = GlobalAveragePool (d)  f = Flatten (p)
    [one_output] g = MatMul (f, w5)  [outer] y = MatMul (g, w6)
}"""
SAMPLES = ("many", "one call", "one call of two", "always the same", "always zero", "a dead channel", "tiny")


@functools.cache
def model() -> ModelProto:
    made = parse_model(NET)
    for tensor in made.graph.initializer:
        if tensor.name == "b2":
            tensor.raw_data = np.where(np.arange(8) % 2, np.float32(-50), np.float32(0.2)).tobytes()
    return made


def calls_of(samples: str) -> Calls:
    x = np.random.default_rng(0).normal(0.3, 1, (6, 1, 3, 6, 6)).astype(np.float32)
    if samples == "always the same":
        x[:] = x[0]
    elif samples == "always zero":
        x[:] = 0
    elif samples == "a dead channel":
        x[:, :, 1] = 0
    elif samples == "tiny":
        x *= np.float32(1e-20)
    count = {"one call": 1, "one call of two": 2}.get(samples, 6)
    return [{"x": v} for v in x[:count]]


@pytest.fixture(autouse=True)
def integers_wherever_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    without_costs(monkeypatch)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("samples", "recipe"),
    [*((s, "w4a8") for s in SAMPLES), *((s, "auto") for s in ("one call", "always zero", "a dead channel"))],
)
def test_it_compiles_and_stays_near(samples: str, recipe: str) -> None:
    calls = calls_of(samples)
    made = lpcompile.compile(model(), calibration=calls, recipe=recipe)
    assert {r["weight_format"] for r in made.report["layers"]} != {"float32"}
    errors = power = 0.0
    for call in calls:
        wanted, found = run_model(model(), call)["y"], run_model(made.model, call)["y"]
        assert np.isfinite(found).all()
        errors += float(np.square(found - wanted, dtype=np.float64).sum())
        power += float(np.square(wanted, dtype=np.float64).sum())
    assert errors < 0.1 * power


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", ["w4a8", "auto"])
def test_lengths_that_follow_from_data(recipe: str) -> None:
    """A float output whose length is another after rounding is not compared, and nothing fails for it."""
    found = parse_model("""m (float[4,16] x) => (float[4,16] y, float[A,B] z) <float[16,16] w, float[2,16] v> {
        t = MatMul (x, w)  y = Relu (t)
        n = NonZero (y)  c = Cast <to = 1> (n)  s = Transpose <perm = [1, 0]> (c)  z = MatMul (s, v) }""")
    calls = [{"x": np.random.default_rng(i).normal(size=(4, 16)).astype(np.float32)} for i in range(6)]
    report = lpcompile.compile(found, calibration=calls, recipe=recipe).report
    assert report["layers"][0]["weight_format"] != "float32"
