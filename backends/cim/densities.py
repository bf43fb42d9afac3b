"""Shares of ones in what each layer reads: mode `stat` prices a run with them, whatever samples they are from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from lpcompile.backends.cim.activity import MVMS, Executed
from lpcompile.backends.cim.operands import group_index, planes_of, positions_of
from lpcompile.backends.cim.program import Program


@dataclass(frozen=True, slots=True)
class DensityTable:
    """One density a node.

    Attributes:
        by_node: share of ones over positions, rows and input planes of a node's MVMs and MVMPs, padding included.
    """

    by_node: Mapping[str, float]

    @classmethod
    def of(cls, program: Program, executed: Iterable[Executed]) -> "DensityTable":
        """The densities of a run, of any number of samples.

        Args:
            program: that ran.
            executed: its instructions; those without counts tell nothing.
        """
        ones: dict[str, list[int]] = {}
        for e in executed:
            if e.on is None:
                continue
            source = program.descriptors[e.instruction.b]
            planes = planes_of(source) if e.instruction.mnemonic == "MVM" else 1
            found = ones.setdefault(e.node, [0, 0])
            found[0] += int(e.on.sum())
            group = program.groups[group_index(program, e.instruction, e.indices)]
            found[1] += group.rows * positions_of(source) * planes
        return cls(MappingProxyType({node: n / of for node, (n, of) in ones.items() if of}))

    def applied(self, program: Program, executed: Iterable[Executed]) -> list[Executed]:
        """A run with these densities in place of its counts; a node that is not in the table gets none."""
        return [
            replace(e, on=None, densities=self._of(program, e)) if e.instruction.mnemonic in MVMS else e
            for e in executed
        ]

    def _of(self, program: Program, e: Executed) -> tuple[float, ...] | None:
        density = self.by_node.get(e.node)
        return None if density is None else (density,) * planes_of(program.descriptors[e.instruction.b])
