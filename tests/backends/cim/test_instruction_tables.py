"""Every instruction of the table is known to each module that must know it; one that is forgotten would be silent."""

import pytest

from lpcompile.backends.cim.isa import isa, mnemonics
from lpcompile.backends.cim.simulator.accesses import OPERANDS
from lpcompile.backends.cim.sum_bounds import BOUNDED


def descriptors(mnemonic: str) -> set[str]:
    return {o.field for o in isa().operations[mnemonic].operands if o.kind == "descriptor"}


@pytest.mark.parametrize("mnemonic", mnemonics())
def test_races_are_looked_for_in_every_operand(mnemonic: str) -> None:
    assert {name for name, _ in OPERANDS.get(mnemonic, ())} == descriptors(mnemonic)


def test_what_is_written_has_bounds() -> None:
    writing = {m for m, operands in OPERANDS.items() if any(writes for _, writes in operands)}
    assert writing == BOUNDED
