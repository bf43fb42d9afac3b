"""Pieces and places: every output of every layer once a copy, never more macros than a core has."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.backends.cim.geometry import Footprint, Geometry
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.pieces import Groups, cut
from lpcompile.backends.cim.placement import Placement, place
from lpcompile.backends.cim.program import Requant
from lpcompile.backends.cim.tables import Tables
from lpcompile.backends.cim.views import View
from lpcompile.backends.cim.work import Dense
from lpcompile.errors import CapacityError
from tests.backends.cim.random_machines import digital_machine, small_machine

REFERENCE = Geometry.of(MachineDescription.load("reference"))


def dense(rows: int, outputs: int, positions: int = 4, low: int = -8) -> Dense:
    weights = np.random.default_rng(rows + outputs).integers(low, -low, (rows, outputs)).astype(np.int8)
    weights.flat[:1] = low
    x = View(0, "u8", (positions, rows), (rows, 1))
    out = View(1, "u8", (positions, outputs), (outputs, 1))
    return Dense(
        "n", x, out, None, weights, Requant((1,), (0,), (0,), 0, 0, 255), 8, rows * outputs * positions
    )


def holds(works: list[Dense], g: Geometry, found: Placement) -> None:
    used: dict[tuple[int, int, int], set[tuple[int, int]]] = defaultdict(set)
    for layer, (work, pieces) in enumerate(zip(works, found.pieces, strict=True)):
        how = cut(work, g)
        rows = [k for a, b in how.rounds for k in range(a, b)]
        assert rows == list(range(work.weights.shape[0]))
        copies: dict[int, list[int]] = defaultdict(list)
        for p in pieces:
            copies[p.copy] += range(*p.columns)
            assert p.copies == pieces[0].copies
            assert 0 <= p.slot.core < g.cores
            macros = range(p.slot.first_macro, p.slot.first_macro + how.footprint.macros)
            pages = range(p.slot.page0, p.slot.page0 + how.footprint.pages)
            assert macros.stop <= g.macros
            assert pages.stop <= g.row_pages
            taken = used[found.segments[layer], p.slot.core, p.wave]
            place = {(m, page) for m in macros for page in pages}
            assert not taken & place
            taken |= place
        assert sorted(copies) == list(range(pieces[0].copies))
        for columns in copies.values():
            assert sorted(columns) == list(range(work.weights.shape[1]))
        groups = Groups(Tables(), g)
        for p in pieces[:1]:
            for group in groups.of(work, how, p.columns, p.slot):
                made = groups.tables.groups.entries[group]
                assert made.blocks <= made.down * made.pages
                assert made.across * made.down <= how.footprint.macros
    order = list(found.segments)
    assert order == sorted(order)


@pytest.mark.thorough
@given(st.integers(0, 100_000))
def test_every_output_has_a_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    text = digital_machine(rng) if rng.random() < 0.2 else small_machine(rng)
    g = Geometry.of(MachineDescription.from_toml(text))
    works = []
    for _ in range(int(rng.integers(1, 5))):
        work = dense(
            int(rng.integers(1, 200)),
            int(rng.integers(1, 60)),
            int(rng.integers(1, 30)),
            -int(rng.choice([2, 8])),
        )
        try:
            cut(work, g)
        except CapacityError:
            continue
        works.append(work)
    holds(works, g, place(works, [cut(w, g) for w in works], g))


def test_copies_take_what_is_left_over_and_lie_on_different_cores() -> None:
    work = dense(15, 8, positions=64)
    found = place([work], [cut(work, REFERENCE)], REFERENCE)
    pieces = found.pieces[0]
    assert len(pieces) == 16
    assert {p.slot.core for p in pieces[: REFERENCE.cores]} == set(range(REFERENCE.cores))
    assert found.resident
    holds([work], REFERENCE, found)


def test_layers_that_do_not_fit_together_are_segments() -> None:
    works = [dense(60, 40), dense(60, 40), dense(60, 40)]
    found = place(works, [cut(w, REFERENCE) for w in works], REFERENCE)
    assert len(set(found.segments)) > 1
    assert not found.resident
    holds(works, REFERENCE, found)


def test_a_layer_larger_than_the_machine_comes_in_waves_and_rounds() -> None:
    work = dense(500, 100)
    how = cut(work, REFERENCE)
    assert len(how.rounds) > 1
    found = place([work], [how], REFERENCE)
    assert max(p.wave for p in found.pieces[0]) > 0
    holds([work], REFERENCE, found)


def test_what_cannot_be_cut_is_refused() -> None:
    narrow = Geometry.of(MachineDescription.load("reference"))
    with pytest.raises(CapacityError, match="do not fit the local buffer") as caught:
        cut(dense(1 << 14, 1), narrow)
    assert "--host n" in str(caught.value.hint)
    from dataclasses import replace

    with pytest.raises(CapacityError, match="8 planes of one weight do not fit 7 columns"):
        cut(dense(4, 1, low=-127), replace(narrow, columns=7))


def test_nothing_to_place() -> None:
    assert place([], [], REFERENCE) == Placement((), ())
    assert Footprint(2, 3, 1).macros == 6
