"""Formats of 3 and 6 bits are candidates where the budget is tight, and take as many bits in the file."""

import numpy as np
import pytest

import lpcompile
from lpcompile.assignment.layer_facts import LayerFacts, layer_facts
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.candidate_plans import AUTO_FORMATS, BETWEEN, TIGHT_BITS, candidate_formats
from lpcompile.runtime.layer_check import check_layers
from tests.networks import shipped, shipped_data, toy

TIGHT = {"avg-bits": 3.5}


def layers() -> list[LayerFacts]:
    return [layer_facts(n) for n in LpGraph.from_proto(toy("residual_add")).layers()]


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_below_a_width_two_more_formats_are_tried(share: float) -> None:
    weights = sum(layer.weights for layer in layers())
    wanted = [*AUTO_FORMATS.split("+"), *(BETWEEN if share < 1 else ())]
    for budget in ({"avg-bits": share * TIGHT_BITS}, {"bytes": share * TIGHT_BITS * weights / 8}):
        assert candidate_formats(AUTO_FORMATS, budget, layers()) == wanted


def test_formats_that_were_asked_for_are_all_there_are() -> None:
    assert candidate_formats("fixp4+int8", TIGHT, layers()) == ["fixp4", "int8"]
    assert candidate_formats(AUTO_FORMATS, {}, layers()) == AUTO_FORMATS.split("+")


def test_a_budget_below_four_bits_is_kept() -> None:
    found = lpcompile.compile(
        shipped("digits_resnet"), calibration=shipped_data("digits_resnet"), recipe="auto", budget=TIGHT
    )
    totals = found.report["totals"]
    assert totals["bits_per_weight"] <= TIGHT["avg-bits"]
    taken = {layer["weight_format"] for layer in found.report["layers"]}
    assert "int3" in taken
    assert min(resolve(f).bits for f in taken) == 3
    with np.load(shipped_data("digits_resnet")) as data:
        feeds = {name: data[name][:2] for name in data.files}
    checked = [c for c in check_layers(found.model, feeds) if "Add" not in c.op]  # sums may be a code apart
    assert len(checked) > 10
    assert not any(c.different for c in checked)
