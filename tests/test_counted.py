"""Counts in sentences."""

import pytest

from lpcompile.counted import counted


@pytest.mark.parametrize(
    ("count", "alone", "with_verb"),
    [
        (0, "0 layers", "0 layers differ"),
        (1, "1 layer", "1 layer differs"),
        (2, "2 layers", "2 layers differ"),
    ],
)
def test_one_has_no_plural(count: int, alone: str, with_verb: str) -> None:
    assert counted(count, "layer") == alone
    assert counted(count, "layer", "differs", "differ") == with_verb
