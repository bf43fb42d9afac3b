"""The tables of a program while it is written: equal entries are stored once."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from lpcompile.backends.cim.program import Descriptor, Group, PlaneSet, Requant
from lpcompile.errors import CapacityError

T = TypeVar("T", bound=Hashable)
MOST = 1 << 16  # operands are 16 bits wide


class Table(Generic[T]):
    """Entries in order of their first use."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.entries: list[T] = []
        self._known: dict[T, int] = {}

    def add(self, entry: T) -> int:
        """Number of an entry.

        Raises:
            CapacityError: more entries than an operand can name.
        """
        if (found := self._known.get(entry)) is not None:
            return found
        if len(self.entries) == MOST:
            raise CapacityError(
                f"the program needs more than {MOST} {self.what}",
                hint="choose a machine with larger local buffers, or a smaller --input-shape",
            )
        self._known[entry] = len(self.entries)
        self.entries.append(entry)
        return self._known[entry]


class Tables:
    """All tables, and the two data sections."""

    def __init__(self) -> None:
        self.descriptors: Table[Descriptor] = Table("descriptors")
        self.groups: Table[Group] = Table("weight groups")
        self.plane_sets: Table[PlaneSet] = Table("plane sets")
        self.requants: Table[Requant] = Table("requantisations")
        self.luts: Table[bytes] = Table("look-up tables")
        self.nodes: Table[str] = Table("nodes")
        self.weights = bytearray()
        self.consts = bytearray()
        self._const_at: dict[bytes, int] = {}

    def const(self, data: bytes, align: int = 4) -> int:
        """Address of constant bytes in DRAM."""
        if data not in self._const_at:
            self.consts += bytes(-len(self.consts) % align)
            self._const_at[data] = len(self.consts)
            self.consts += data
        return self._const_at[data]
