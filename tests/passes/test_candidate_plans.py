"""Formats of 3 and 6 bits are candidates of large networks and tight budgets, and take as many bits in the file."""

import numpy as np
import pytest

from lpcompile.assignment.layer_facts import LayerFacts, layer_facts
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.candidate_plans import AUTO_FORMATS, LESS, MORE, candidate_formats
from lpcompile.runtime.reference import evaluate
from tests.passes.test_assign_formats import CNN
from tests.quantizing import NO_COSTS, quantized
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import compiled

TIGHT = {"avg-bits": 3.5}


def layers(channels: int) -> list[LayerFacts]:
    """One layer; with 16 channels 4 bits a weight and 8 bits a channel are 4.062 bits a weight, with one unit more."""
    model = parse_model(
        f"""m (float[1,{channels},4,4] x) => (float[1,{channels},4,4] y) <float[{channels},{channels},3,3] w> {{
        y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"""
    )
    return [layer_facts(n) for n in LpGraph.from_proto(model).layers()]


@pytest.mark.parametrize(
    ("channels", "bits", "more"),
    [
        (16, 4.08, []),
        (16, 4.06, [MORE, LESS]),
        (212, 4.38, [MORE]),
        (212, 4.37, [MORE, LESS]),
        (212, 4.001, [MORE, LESS]),
        (210, 4.37, []),  # 396 900 weights
    ],
)
def test_further_widths_where_they_pay_for_their_functions(
    channels: int, bits: float, more: list[str]
) -> None:
    facts = layers(channels)
    for budget in ({"avg-bits": bits}, {"bytes": bits * facts[0].weights / 8}):
        assert candidate_formats(AUTO_FORMATS, budget, facts) == [*AUTO_FORMATS.split("+"), *more]


def test_floats_that_stay_take_their_share() -> None:
    facts = 2 * layers(16)
    assert candidate_formats(AUTO_FORMATS, {"avg-bits": 10}, facts) == AUTO_FORMATS.split("+")
    assert candidate_formats(AUTO_FORMATS, {"avg-bits": 18}, facts, [1])[-2:] == [MORE, LESS]


def test_formats_that_were_asked_for_are_all_there_are() -> None:
    assert candidate_formats("fixp4+int8", TIGHT, layers(16)) == ["fixp4", "int8"]
    assert candidate_formats(AUTO_FORMATS, {}, layers(212)) == AUTO_FORMATS.split("+")


def test_a_budget_below_four_bits_is_kept() -> None:
    passes = f"{NO_COSTS},assign-formats{{avg-bits=3.5,joint=0}},quantize-weights,correct-bias"
    found = quantized(CNN, passes, calls=8)
    assert found.reports["assign-formats"].metrics["avg_bits"] <= TIGHT["avg-bits"]
    taken = {plan.weight.format for plan in found.graph.plan.layers.values()}
    assert "int3" in taken
    assert min(resolve(name).bits for name in taken) == 3
    model = compiled(found.graph)
    feeds = random_feeds(model)
    np.testing.assert_array_equal(run_model(model, feeds)["y"], evaluate(model, feeds)["y"])
