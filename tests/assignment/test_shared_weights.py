"""Layers of the same weights are chosen for as one."""

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.assignment.assign import exact
from lpcompile.assignment.joint import Joint
from lpcompile.assignment.scored import Scored, ScoredCandidate, ScoredLayer, with_picks
from lpcompile.assignment.shared_weights import units_of
from lpcompile.plan import WeightPlan

FORMATS = ("fixp4", "nf4", "int8")


def layer(name: str, losses: dict[str, float], bits: dict[str, float]) -> ScoredLayer:
    candidates = [
        ScoredCandidate(WeightPlan(f), loss, 0.3, {"bits": bits[f], "bytes": bits[f] / 8})
        for f, loss in losses.items()
    ]
    return ScoredLayer(name, 10, candidates)


def two_that_share() -> Scored:
    bits = {"fixp4": 40.0, "nf4": 40.0, "int8": 80.0}
    layers = [
        layer("a", {"fixp4": 1.0, "nf4": 2.0}, bits),
        layer("b", {"fixp4": 5.0, "int8": 1.0}, bits),
        layer("c", {"nf4": 1.0, "int8": 0.1, "fixp4": 3.0}, bits),
    ]
    return Scored(layers, {x.name: np.full((2, 1, len(x.candidates)), i + 1.0) for i, x in enumerate(layers)})


def test_losses_and_bits_add_up_and_bytes_are_those_of_one_copy() -> None:
    units = units_of(two_that_share(), [["a", "c"]])
    assert [x.name for x in units.scored.layers] == ["a", "b"]
    unit = units.scored.layers[0]
    assert unit.weights == 20
    assert [(c.weight.format, c.loss, c.costs) for c in unit.candidates] == [
        ("fixp4", 4.0, {"bits": 80.0, "bytes": 5.0}),
        ("nf4", 3.0, {"bits": 80.0, "bytes": 5.0}),
    ]
    assert np.isclose(unit.candidates[0].error, 0.3 * 2**0.5)
    assert np.array_equal(units.scored.projections["a"], np.full((2, 1, 2), 4.0))
    assert "c" not in units.scored.projections
    assert units.picks_of_layers({"a": 1, "b": 0}) == {"a": 1, "c": 0, "b": 0}  # nf4 is the first of c's


def test_layers_without_a_common_candidate_stay_apart() -> None:
    scored = two_that_share()
    layers = [*scored.layers[:2], layer("c", {"int8": 0.1}, {"int8": 80.0})]
    units = units_of(Scored(layers, {}), [["a", "c"]])
    assert sorted(x.name for x in units.scored.layers) == ["a", "b", "c"]
    assert units.picks_of_layers({"a": 1, "b": 0, "c": 0}) == {"a": 1, "b": 0, "c": 0}


def test_what_was_found_for_units_is_told_of_every_layer() -> None:
    scored = two_that_share()
    chosen = with_picks(scored.layers, {"a": 0, "b": 1, "c": 2}, "exact")
    joint = Joint(chosen, {}, {"a": ("nf4", "fixp4")}, 3, (chosen,))
    units = units_of(scored, [["a", "c"]])
    found = units.of_layers(
        Joint(with_picks(units.scored.layers, {"a": 0, "b": 1}, "exact"), {}, joint.swapped, 3, joint.others)
    )
    assert found.assignment.picks == {"a": 0, "b": 1, "c": 2}
    assert set(found.swapped) == {"a", "c"}
    assert found.others == ()
    assert units_of(scored, []).of_layers(joint) == joint


@given(
    st.lists(st.lists(st.floats(0.01, 9), min_size=3, max_size=3), min_size=4, max_size=4),
    st.integers(16, 32),
)
def test_the_choice_for_units_is_the_best_that_gives_sharing_layers_one_format(
    losses: Sequence[Sequence[float]], width: int
) -> None:
    bits = {"fixp4": 4.0, "nf4": 4.5, "int8": 8.0}
    layers = [
        layer(n, dict(zip(FORMATS, row, strict=True)), bits) for n, row in zip("abcd", losses, strict=True)
    ]
    units = units_of(Scored(layers, {}), [["a", "b", "d"]])
    found = exact(units.scored.layers, {"bits": width})
    picks = units.picks_of_layers(found.picks)
    assert picks["a"] == picks["b"] == picks["d"]
    tried = (3 * [shared] + [own] for shared, own in itertools.product(range(3), range(3)))
    within = [
        sum(losses[i][p] for i, p in zip((0, 1, 3, 2), ps, strict=True))
        for ps in tried
        if sum(list(bits.values())[p] for p in ps) <= width
    ]
    assert np.isclose(found.loss, min(within), rtol=1e-6)
