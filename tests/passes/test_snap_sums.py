"""`snap-sums`: sums multiply by few bits exactly, ranges only grow, and integers are those of numpy."""

from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.plan import ActivationPlan
from lpcompile.quant.multipliers import dyadic, multiplier_bits
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.quantizing import NO_COSTS, Quantized, quantized
from tests.support import parse_model, random_feeds, run_model

CHAIN = """m (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3, float[4,4,1,1] w4> {
    a = Conv (x, w1)  b = Conv (a, w2)  s = Add (a, b)  r = Relu (s)
    c = Conv (r, w3)  d = Add (r, c)  y = Conv (d, w4)
}"""
TWICE = """m (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,1,1] w1, float[4,4,1,1] w2, float[4,4,1,1] w3, float[4,4,1,1] w4, float[4,4,1,1] w5> {
    a = Conv (x, w1)  b = Conv (x, w2)  c = Conv (x, w3)
    s = Add (a, b)  p = Conv (s, w4)  t = Add (a, c)  q = Conv (t, w5)  u = Add (p, q)  y = Conv (u, w4)
}"""


def ratio_bits(x: ActivationPlan, y: ActivationPlan) -> int:
    """The fewest bits that hold x.scale / y.scale to within float32."""
    ratio = np.array([x.scale / y.scale])
    return next(
        b for b in range(1, 25) if abs(np.ldexp(*(v[0] for v in dyadic(ratio, b))) / ratio[0] - 1) < 1e-6
    )


def snapped(text: str, bits: int = 3) -> tuple[Quantized, dict[str, ActivationPlan]]:
    before = dict(quantized(text, NO_COSTS).graph.plan.activations)
    return quantized(text, f"{NO_COSTS},snap-sums{{bits={bits}}},quantize-weights"), before


@pytest.mark.sweep
@pytest.mark.parametrize("bits", [1, 3, 5])
def test_ratios_have_few_bits_and_ranges_only_grow(bits: int) -> None:
    found, before = snapped(CHAIN, bits)
    plans = found.graph.plan.activations
    for operands, total in ((("a", "b"), "r"), (("r", "c"), "d")):
        assert all(ratio_bits(plans[x], plans[total]) <= bits for x in operands)
    most = 2.0 if bits == 1 else 1 + 2.0 ** (1 - bits)
    for name, plan in plans.items():
        assert before[name].scale * (1 - 1e-6) <= plan.scale <= before[name].scale * most * (1 + 1e-6)
        assert plan.zero_point == before[name].zero_point
    held = {found.graph.value(t).producer.name for t in ("s", "d")}  # type: ignore[union-attr]
    assert {n for n, r in found.graph.plan.requants.items() if multiplier_bits(r.multiplier) == bits} == held


def test_a_second_run_changes_nothing() -> None:
    found, _ = snapped(CHAIN)
    assert found.rerun("snap-sums{bits=3}")["snap-sums"].changes == []


def test_an_operand_of_two_sums_suits_the_later_one() -> None:
    found, _ = snapped(TWICE)
    names = [found.graph.value(t).producer.name for t in ("s", "t", "u")]  # type: ignore[union-attr]
    assert found.skip_reason("snap-sums", names[0]) == "an operand has its scale from another sum"
    assert set(found.graph.plan.requants) == set(names[1:])


def test_sums_on_floats_say_so() -> None:
    text = CHAIN.replace("d = Add (r, c)", "d = Sub (r, c)")
    found, _ = snapped(text)
    node = found.graph.value("d").producer
    assert node is not None
    assert found.skip_reason("snap-sums", node.name) == "it runs on floats"


@pytest.mark.thorough
@pytest.mark.parametrize("text", [CHAIN, TWICE])
def test_integers_are_those_of_numpy_and_replayed(text: str, tmp_path: Path) -> None:
    model = parse_model(text)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    made = lpcompile.compile(model, target="cim", calibration=calls, recipe="pikelpn")
    assert all(c.different == 0 for c in check_layers(made.model, calls[0], positions=10_000))
    np.testing.assert_array_equal(evaluate(made.model, calls[1])["y"], run_model(made.model, calls[1])["y"])
    (tmp_path / "decisions.toml").write_text(made.decisions, "utf-8")
    again = lpcompile.compile(
        model, target="cim", calibration=calls, recipe="pikelpn", decisions=tmp_path / "decisions.toml"
    )
    assert again.model.SerializeToString(deterministic=True) == made.model.SerializeToString(
        deterministic=True
    )
    assert again.decisions == made.decisions
