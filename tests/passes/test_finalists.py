"""Finalists of `assign-formats`: the best of them after the second rounding is kept, and the report says which."""

import pytest

from lpcompile.analysis.measured import Judge
from lpcompile.analysis.rounded_network import rounded_network
from lpcompile.passes import finalists
from lpcompile.passes.finalists import MOST, affordable_finalists
from lpcompile.runtime.execution import observer
from tests.quantizing import NO_COSTS, Quantized, quantized, same_plan

CNN = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[5,16] w3, float[5] b3> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu (c)
    g = GlobalAveragePool (s)  f = Flatten (g)  y = Gemm <transB = 1> (f, w3, b3)
}"""
ROUND = "quantize-weights{format=fixp4,scale-format=ufloat8_e4m4,rule=output-mse,rounding=gptq,sweeps=0},correct-bias"
NAME = "requantize-weights"


def assigned(formats: str = "fixp4+posit4+nf4+int8", bits: float = 5) -> Quantized:
    options = f"formats={formats},granularities=channel+group16,avg-bits={bits}"
    return quantized(CNN, f"{NO_COSTS},assign-formats{{{options}}},{ROUND}", calls=20)


def noise(found: Quantized) -> float:
    assert found.context.calibration is not None
    calls = found.context.calibration.deciding
    judge = Judge(observer(found.graph, ["y"]), calls, ["y"], per_sample=False)
    return float(judge.noise_terms(observer(rounded_network(found.graph, found.graph.plan), ["y"])).mean())


def formats(found: Quantized) -> set[str]:
    return {layer.weight.format for layer in found.layers.values()}


def with_finalist(chosen: str, finalist: str) -> Quantized:
    """A network in one format, whose only finalist is the same network in another one."""
    found, other = assigned(chosen, 9), assigned(finalist, 9)
    plan = other.graph.plan
    for name, layer in plan.layers.items():
        plan = plan.with_layer(name, found.graph.plan.layers[name].__class__(layer.kernel, layer.weight))
    found.context.finalists.clear()
    found.context.finalists["the other"] = plan
    found.context.rounded |= other.context.rounded
    return found


@pytest.mark.thorough
def test_rivals_that_measured_well_are_finalists_with_other_formats() -> None:
    found = assigned()
    assert 1 <= len(found.context.finalists) <= MOST
    own = {n: layer.weight for n, layer in found.layers.items()}
    for plan in found.context.finalists.values():
        assert {n: layer.weight for n, layer in plan.layers.items()} != own
        assert all(layer.tensor is None for layer in plan.layers.values())


@pytest.mark.thorough
def test_the_best_after_the_second_rounding_is_kept() -> None:
    alone, all_of_them = assigned(), assigned()
    alone.rerun(f"{NAME}{{finalists=0}}")
    plans = dict(all_of_them.context.finalists)
    levels = {"chosen": noise(alone)}
    for name in plans:
        one = assigned()
        one.context.finalists = {name: plans[name]}
        one.rerun(f"{NAME}{{finalists=1}}")
        levels[name] = noise(one)  # no worse than the one chosen: the better of the two
    report = all_of_them.rerun(f"{NAME}{{finalists=3}}")[NAME]
    assert noise(all_of_them) == pytest.approx(min(levels.values()), rel=1e-9)
    assert sum(k.startswith("gain_db[") for k in report.metrics) == len(plans)


@pytest.mark.thorough
def test_a_better_finalist_takes_the_place_of_what_was_chosen() -> None:
    found = with_finalist("pot4", "int8")
    assert formats(found) == {"pot4"}
    report = found.rerun(NAME)[NAME]
    assert formats(found) == {"int8"}
    assert report.metrics["gain_db[the other]"] > 6
    (said,) = [c.what for c in report.changes if c.node == "all layers"]
    assert said.startswith("formats of 'the other': ")
    assert found.sqnr_db() > 20


@pytest.mark.thorough
def test_a_worse_one_changes_nothing() -> None:
    found, alone = with_finalist("int8", "pot4"), assigned("int8", 9)
    alone.rerun(f"{NAME}{{finalists=0}}")
    report = found.rerun(NAME)[NAME]
    assert report.metrics["gain_db[the other]"] < -6
    assert formats(found) == {"int8"}
    assert same_plan(found.graph, alone.graph)


@pytest.mark.thorough
def test_one_that_was_not_kept_as_it_was_rounded_is_left_out() -> None:
    found = with_finalist("pot4", "int8")
    found.context.rounded.clear()
    assert not any(k.startswith("gain_db[") for k in found.rerun(NAME)[NAME].metrics)
    assert formats(found) == {"pot4"}


@pytest.mark.thorough
def test_a_second_run_has_no_finalists() -> None:
    found = assigned()
    found.rerun(NAME)
    assert not found.context.finalists
    assert not any(k.startswith("gain_db[") for k in found.rerun(NAME)[NAME].metrics)


@pytest.mark.thorough
def test_only_as_many_as_take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = assigned()
    assert found.context.calibration is not None
    calls, names = found.context.calibration.deciding, list(found.layers)
    assert affordable_finalists(found.graph, calls, names) == MOST
    assert affordable_finalists(found.graph, [], names) == 0
    monkeypatch.setattr(finalists, "MOST_MACS", 1e6)
    assert affordable_finalists(found.graph, calls, names) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("options", ["finalists=-2", "segments=-1"])
def test_options_out_of_range_are_refused(options: str) -> None:
    with pytest.raises(Exception, match="at least"):
        assigned().rerun(f"{NAME}{{{options}}}")
