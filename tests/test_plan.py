"""Decisions as values: changing one gives a new plan and leaves the old one as it was."""

from dataclasses import FrozenInstanceError

import pytest

from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, WeightPlan

INT8 = WeightPlan("int8")
ACTIVATION = ActivationPlan("uint8", 0.5, 10, "x")


def two_layers() -> QuantPlan:
    plan = QuantPlan().with_layer("a", LayerPlan(Kernel.INTEGER, INT8))
    return plan.with_layer("b", LayerPlan(Kernel.FLOAT_OUT, INT8)).with_activation("x", ACTIVATION)


def test_a_decision_taken_anew_keeps_its_place_and_leaves_the_old_plan_alone() -> None:
    old = two_layers()
    new = old.with_layer("a", LayerPlan(Kernel.FLOAT, reason="asked"))
    assert list(new.layers) == ["a", "b"]
    assert new.layers["a"].reason == "asked"
    assert old.layers["a"].kernel is Kernel.INTEGER
    assert new.layers["b"] is old.layers["b"]
    assert new.activations["x"] is ACTIVATION


def test_equal_decisions_are_equal_plans() -> None:
    assert two_layers() == two_layers()
    assert two_layers() != two_layers().with_activation("y", ACTIVATION)


def test_plans_cannot_be_written_to() -> None:
    plan = two_layers()
    with pytest.raises(TypeError):
        plan.layers["a"] = LayerPlan()  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        plan.layers = {}  # type: ignore[misc]


def test_nodes_taken_out_of_the_plan_stay_float() -> None:
    plan = QuantPlan(two_layers().layers, elementwise={"relu": "between", "add": "between"})
    without = plan.without({"a", "relu"}, "too coarse")
    assert without.layers["a"].kernel is Kernel.FLOAT
    assert without.layers["a"] == LayerPlan(reason="too coarse")
    assert without.layers["b"] == plan.layers["b"]
    assert dict(without.elementwise) == {"add": "between"}


@pytest.mark.parametrize(
    ("fmt", "zero", "top", "low", "high"), [("uint8", 10, 255, -5, 122.5), ("uint4", 3, 15, -1.5, 6)]
)
def test_the_range_of_an_activation(fmt: str, zero: int, top: int, low: float, high: float) -> None:
    plan = ActivationPlan(fmt, 0.5, zero, "x")
    assert (plan.code_max, plan.low, plan.high) == (top, low, high)
