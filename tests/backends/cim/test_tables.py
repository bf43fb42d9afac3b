"""Tables of a program while it is written."""

import pytest

from lpcompile.backends.cim import tables
from lpcompile.backends.cim.program import Requant
from lpcompile.backends.cim.tables import Table, Tables
from lpcompile.errors import CapacityError


def test_equal_entries_are_stored_once() -> None:
    t = Tables()
    one, other = Requant((1,), (0,), (0,), 0, 0, 255), Requant((2,), (0,), (0,), 0, 0, 255)
    assert [t.requants.add(r) for r in (one, other, Requant((1,), (0,), (0,), 0, 0, 255))] == [0, 1, 0]
    assert t.requants.entries == [one, other]


def test_more_than_an_operand_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST", 2)
    t: Table[str] = Table("nodes")
    t.add("a")
    t.add("b")
    assert t.add("a") == 0
    with pytest.raises(CapacityError, match="more than 2 nodes"):
        t.add("c")


def test_constants_are_aligned_and_shared() -> None:
    t = Tables()
    assert [t.const(d) for d in (b"abc", b"defgh", b"abc", b"i")] == [0, 4, 0, 12]
    assert bytes(t.consts) == b"abc\0defgh\0\0\0i"
