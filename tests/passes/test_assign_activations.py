"""`assign-formats` decides widths of activations with the formats of layers: exactly, and tie groups stay whole."""

import functools
import itertools
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from lpcompile.analysis.calibration import Calibration
from lpcompile.assignment.costs import costs_of
from lpcompile.assignment.layer_facts import LayerFormat, layer_facts
from lpcompile.assignment.scored import Scored
from lpcompile.assignment.tie_groups import TieGroup, narrowable_groups
from lpcompile.errors import BudgetError, PassOptionError
from lpcompile.passes.assign_formats import AssignFormats
from lpcompile.report.document import layer_records
from tests.quantizing import NO_COSTS, RESIDUAL, Quantized, quantized
from tests.support import run_model

assign_formats = import_module("lpcompile.passes.assign_formats")  # the function has its name

ROUND = "quantize-weights{format=fixp4,scale-format=ufloat8_e4m4,rule=output-mse,sweeps=0},correct-bias"
SMALL = "formats=fixp4+int8,granularities=channel,joint=0"


SCORES: dict[str, Any] = {}  # no bound changes them


def assigned(options: str, scored: dict[str, Any] = SCORES) -> Quantized:
    passes = f"{NO_COSTS},assign-formats{{{SMALL},{options}}},{ROUND}"
    return quantized(RESIDUAL, passes, calls=20, scored=scored)


@pytest.fixture(scope="module")
def eight_bits() -> Quantized:
    """Every activation in 8 bits, with scores of the narrow ones."""
    return assigned("avg-bits=33,activations=uint8+uint4")


def ace_of(found: Quantized) -> float:
    return sum(r.ace for r in layer_records(found.graph, {}))


@functools.cache
def undecided() -> Quantized:
    """Before any format is assigned; made once, so do not change it."""
    return quantized(RESIDUAL, NO_COSTS)


def groups_of(found: Quantized) -> list[TieGroup]:
    """The tie groups that could be narrow, before any became so."""
    fresh = undecided()
    assert found.graph.plan.activations.keys() == fresh.graph.plan.activations.keys()
    return narrowable_groups(fresh.graph, fresh.context.ranges)


def losses_of(found: Quantized) -> dict[str, float]:
    (losses,) = (v for k, v in found.context.scored.items() if k.startswith("activations "))
    return dict(losses)


def candidates_of(found: Quantized) -> dict[str, list[tuple[float, int]]]:
    """Predicted loss and bits a weight of every layer's candidates."""
    (known,) = (v for v in found.context.scored.values() if isinstance(v, Scored))
    payload = {"fixp4": 4, "int8": 8}
    return {x.name: [(c.loss, payload[c.weight.format]) for c in x.candidates] for x in known.layers}


def macs_of(found: Quantized) -> dict[str, int]:
    """By hand: positions times weights."""
    positions = [64, 16, 16, 1]
    counts = {}
    for node, n in zip(found.graph.layers(), positions, strict=True):
        weight = node.inputs[1]
        assert weight is not None
        counts[node.name] = n * weight.values.size
    return counts


def best_by_trying(found: Quantized, bound: float) -> float:
    """The least predicted loss of every combination of widths and formats within the bound."""
    candidates, macs, losses = candidates_of(found), macs_of(found), losses_of(found)
    groups = groups_of(found)
    best = np.inf
    for narrow in itertools.product([False, True], repeat=len(groups)):
        widths = {n: 4 for g, yes in zip(groups, narrow, strict=True) if yes for n in g.readers}
        lost = sum(losses[g.name] for g, yes in zip(groups, narrow, strict=True) if yes)
        for picked in itertools.product(*candidates.values()):
            ace = sum(
                macs[n] * bits * widths.get(n, 8) for n, (_, bits) in zip(candidates, picked, strict=True)
            )
            if ace <= bound:
                best = min(best, lost + sum(loss for loss, _ in picked))
    return float(best)


@pytest.mark.sweep
@pytest.mark.parametrize("share", [0.35, 0.42, 0.55, 0.8])
def test_widths_and_formats_are_the_best_of_all_within_an_ace_bound(
    share: float, eight_bits: Quantized
) -> None:
    bound = share * sum(64 * m for m in macs_of(eight_bits).values())
    found = assigned(f"ace={bound!r}")
    metrics = found.reports["assign-formats"].metrics
    assert metrics["predicted_loss"] == pytest.approx(best_by_trying(eight_bits, bound), rel=1e-9)
    assert metrics["gap"] == pytest.approx(0, abs=1e-9)
    assert ace_of(found) <= bound


def test_some_widths_change_and_tie_groups_stay_whole(eight_bits: Quantized) -> None:
    bound = 0.35 * ace_of(eight_bits)
    found = assigned(f"ace={bound!r}")
    plan = found.graph.plan.activations
    formats: dict[str, set[str]] = {}
    for a in plan.values():
        formats.setdefault(a.tie_group, set()).add(f"{a.format} {a.scale} {a.zero_point}")
    assert all(len(f) == 1 for f in formats.values())
    narrow = {a.tie_group for a in plan.values() if a.format == "uint4"}
    assert 0 < len(narrow) < len(formats)
    assert plan["x"].format == "uint8"  # the input of the model, an end
    assert all("4 bits within the budget" in a.reason for a in plan.values() if a.format == "uint4")
    assert {c.node for c in found.reports["assign-formats"].changes} >= {
        t for t, a in plan.items() if a.format == "uint4"
    }


def test_the_report_counts_what_the_assignment_counted(eight_bits: Quantized) -> None:
    for name, share in (("ace", 0.35), ("acev2", 0.66)):
        bound = share * sum(getattr(r, name) for r in layer_records(eight_bits.graph, {}))
        found = assigned(f"{name}={bound!r}")
        records = layer_records(found.graph, {})
        widths = {r.name: 4 if r.activation_format == "uint4" else 8 for r in records}
        assert 4 in widths.values()
        own = sum(
            costs_of([name], layer_facts(n), LayerFormat(plan.weight, widths[n.name], plan.kernel))[name]
            for n in found.graph.layers()
            for plan in [found.graph.plan.layers[n.name]]
        )
        assert own == pytest.approx(sum(getattr(r, name) for r in records), rel=1e-12)
        assert own == pytest.approx(found.reports["assign-formats"].metrics[name], rel=1e-12)
        assert own <= bound


def test_what_4_bits_lose_is_about_what_is_measured(eight_bits: Quantized) -> None:
    """Rounding in numpy at the one member where the group's codes are made, against 8 bits there."""
    found = eight_bits
    run = found.context.observe
    assert run is not None
    assert found.context.calibration is not None
    calls = found.context.calibration.deciding
    for group in groups_of(found):
        (source,) = group.sources
        noise = []
        for plan in (group.planned, group.narrow):
            changed = found.graph.copy()
            tensor = changed.value(source)
            scale = changed.constant("s", np.array(plan.scale, np.float32))
            ends = [
                changed.constant(n, np.array(v, np.float32))
                for n, v in (("lo", -plan.zero_point), ("hi", plan.code_max - plan.zero_point))
            ]
            nodes = [changed.add_node("Div", [tensor, scale])]
            nodes.append(changed.add_node("Round", [nodes[-1].outputs[0]]))
            nodes.append(changed.add_node("Clip", [nodes[-1].outputs[0], *ends]))
            nodes.append(changed.add_node("Mul", [nodes[-1].outputs[0], scale]))
            rounded = nodes[-1].outputs[0]
            assert rounded is not None
            changed.replace_uses(tensor, rounded, only=nodes[0].__ne__)
            noise.append(_noise(found, changed, calls))
        assert losses_of(found)[group.name] == pytest.approx((noise[1] - noise[0]) / 2, rel=0.5)


def _noise(found: Quantized, changed: object, calls: Sequence[dict[str, np.ndarray]]) -> float:
    run = found.context.observe
    assert run is not None
    pairs = [(run(found.graph, ["y"])(c)["y"], run(changed, ["y"])(c)["y"]) for c in calls]  # type: ignore[arg-type]
    noise = sum(float(np.square(b - a).sum()) for a, b in pairs)
    return noise / sum(float(np.square(a).sum()) for a, _ in pairs)


@pytest.mark.thorough
@pytest.mark.parametrize("options", ["avg-bits=6", "ace={ace},activations=uint8"])
def test_widths_stay_where_no_bound_counts_them_or_the_user_says_so(
    options: str, eight_bits: Quantized
) -> None:
    found = assigned(options.format(ace=repr(0.9 * ace_of(eight_bits))), {})
    assert {a.format for a in found.graph.plan.activations.values()} == {"uint8"}
    assert not any(k.startswith("activations ") for k in found.context.scored)


def test_a_narrow_group_has_the_range_that_4_bit_activations_would_have(eight_bits: Quantized) -> None:
    """Against `quantize-activations{format=uint4}`, which plans all of them so."""
    all_narrow = quantized(RESIDUAL, "quantize-activations{cost=none,format=uint4}").graph.plan.activations
    for group in groups_of(eight_bits):
        for tensor in group.members:
            wanted = all_narrow[tensor]
            assert (group.narrow.scale, group.narrow.zero_point) == (wanted.scale, wanted.zero_point)
            assert (group.narrow.format, group.narrow.rule) == ("uint4", wanted.rule)


def test_tensors_that_no_layer_reads_and_the_ends_keep_8_bits(eight_bits: Quantized) -> None:
    """The input of the first and the last layer, and what only Add and the mean read."""
    read = {t for g in groups_of(eight_bits) for t in g.members}
    assert read == {"r", "p", "s"}


def test_errors_arise_once_in_a_group(eight_bits: Quantized) -> None:
    """MaxPool moves the codes of the first layer, so only that one counts."""
    assert [g.sources for g in groups_of(eight_bits)] == [("r",), ("s",)]


def test_an_impossible_bound_names_the_nearest_point_of_both_widths(eight_bits: Quantized) -> None:
    macs = macs_of(eight_bits)
    first, second, third, last = macs.values()
    least = 4 * 8 * (first + last) + 4 * 4 * (second + third)
    with pytest.raises(BudgetError, match=f"the least is {least:.6g}"):
        assigned(f"ace={least - 1}")
    assert assigned(f"ace={least}").reports["assign-formats"].metrics["ace"] == least


def test_without_samples_relative_errors_decide(eight_bits: Quantized) -> None:
    """Samples that were made up give ranges but no gradients."""
    found = quantized(RESIDUAL, NO_COSTS)
    context = found.context
    assert context.calibration is not None
    context.calibration = Calibration(context.calibration.calls, generated=True)
    found.rerun(f"assign-formats{{{SMALL},ace={0.4 * ace_of(eight_bits)!r}}}")
    losses = losses_of(found)
    assert all(0 < loss < 0.5 for loss in losses.values())
    assert "uint4" in {a.format for a in found.graph.plan.activations.values()}


def test_the_emitted_model_has_codes_of_4_bits(eight_bits: Quantized) -> None:
    found = assigned(f"ace={0.35 * ace_of(eight_bits)!r}")
    assert any(f.name.endswith("_a4") for f in found.emitted().functions)
    assert 8 < found.sqnr_db() < eight_bits.sqnr_db()


def test_a_width_that_does_not_exist_is_named() -> None:
    with pytest.raises(PassOptionError, match=r"'activations' is one of auto, uint8, uint8\+uint4"):
        AssignFormats.configured({"activations": "uint2"})


def measured(share: float, eight_bits: Quantized) -> Quantized:
    options = SMALL.replace("joint=0", "joint=1")
    bound = share * ace_of(eight_bits)
    return quantized(RESIDUAL, f"{NO_COSTS},assign-formats{{{options},ace={bound!r}}},{ROUND}", calls=20)


@pytest.mark.thorough
def test_the_whole_is_measured_with_activations_rounded(eight_bits: Quantized) -> None:
    """Against what the compiled model gives in ONNX Runtime on the deciding calls."""
    found = measured(0.52, eight_bits)
    metrics = found.reports["assign-formats"].metrics
    narrow = "uint4" in {a.format for a in found.graph.plan.activations.values()}
    losses = [metrics[f"measured_loss[{k} activations]"] for k in ("8-bit", "narrow")]
    assert narrow == (losses[1] <= losses[0])
    assert found.context.calibration is not None
    noise = signal = 0.0
    for call in found.context.calibration.deciding:
        wanted, got = run_model(found.original, call)["y"], run_model(found.emitted(), call)["y"]
        noise += float(np.square(got - wanted).sum())
        signal += float(np.square(wanted).sum())
    assert losses[narrow] == pytest.approx(noise / signal, rel=0.15)


def test_8_bits_stay_where_they_measure_better_within_the_same_bound(
    eight_bits: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here 4 bits of activations are said to lose nothing."""
    monkeypatch.setattr(assign_formats, "score_narrow", lambda _, groups: {g.name: 0.0 for g in groups})
    found = measured(0.97, eight_bits)
    metrics = found.reports["assign-formats"].metrics
    assert metrics["measured_loss[8-bit activations]"] < metrics["measured_loss[narrow activations]"]
    assert {a.format for a in found.graph.plan.activations.values()} == {"uint8"}
    assert ace_of(found) <= 0.97 * ace_of(eight_bits)
