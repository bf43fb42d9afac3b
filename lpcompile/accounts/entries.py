"""The account of a graph: an entry for each node that does something, and those that could not be counted."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lpcompile.analysis.arithmetic import Coefficients, Kind, Operation
from lpcompile.analysis.cost_classes import CLASSES, COMPARE, PRODUCTS
from lpcompile.errors import BudgetError

STANDARD = Coefficients()

Work = Counter[tuple[str, Operation]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a call of one node costs.

    Attributes:
        node: its name; "TENSOR/quantize" and "TENSOR/dequantize" where a tensor changes between floats and integers.
        op: operator type.
        work: operations by class.
        ace: MACs times payload bits times activation bits.
        bytes: read and written, each tensor once, as if nothing were held between nodes.
    """

    node: str
    op: str
    work: Work = field(default_factory=Counter)
    ace: float = 0.0
    bytes: int = 0

    def acev2(self, by: Coefficients = STANDARD) -> float:
        """Units of ACEv2."""
        return sum(times * by.acev2(operation) for (_, operation), times in self.work.items())

    @property
    def energy45nm_pj(self) -> float:
        """Picojoules of its arithmetic at 45 nm; no memory."""
        return sum(times * operation.energy45nm_pj for (_, operation), times in self.work.items())

    def by_class(self, by: Coefficients = STANDARD) -> dict[str, float]:
        """Units of ACEv2 by class, those that there are."""
        found: dict[str, float] = {}
        for (name, operation), times in self.work.items():
            found[name] = found.get(name, 0.0) + times * by.acev2(operation)
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A node that is in no figure, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """All nodes of a graph.

    Attributes:
        entries: in execution order.
        uncounted: nodes of unknown cost.
    """

    entries: Sequence[Entry] = ()
    uncounted: Sequence[Uncounted] = ()

    def by_class(self, by: Coefficients = STANDARD) -> dict[str, float]:
        """Units of ACEv2 of every class of CLASSES."""
        found = dict.fromkeys(CLASSES, 0.0)
        for entry in self.entries:
            for name, value in entry.by_class(by).items():
                found[name] += value
        return found

    def acev2(self, by: Coefficients = STANDARD) -> float:
        """Units of ACEv2."""
        return sum(self.by_class(by).values())

    @property
    def ace(self) -> float:
        """Arithmetic computation effort, of products alone."""
        return sum(entry.ace for entry in self.entries)

    @property
    def energy45nm_pj(self) -> float:
        """Picojoules of arithmetic at 45 nm; no memory."""
        return sum(entry.energy45nm_pj for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Bytes moved between nodes and memory."""
        return sum(entry.bytes for entry in self.entries)

    @property
    def free_operations(self) -> int:
        """Sign flips, bit logic and look-ups: what costs no arithmetic."""
        work = [(o, n) for entry in self.entries for (_, o), n in entry.work.items()]
        return sum(n for o, n in work if o.kind is Kind.FREE)

    def elementwise_share(self, by: Coefficients = STANDARD) -> float:
        """Share of ACEv2 that is not of products; comparisons are left out of it altogether."""
        found = {name: value for name, value in self.by_class(by).items() if name != COMPARE}
        total = sum(found.values())
        return 1 - sum(found[name] for name in PRODUCTS) / total if total else 0.0

    def total(self, model: str, by: Coefficients = STANDARD) -> float:
        """The whole by the cost model of that name, one of COST_MODELS.

        Raises:
            BudgetError: there is none of that name.
        """
        if model not in COST_MODELS:
            raise BudgetError(
                f"no cost model is called '{model}'", hint=f"there are {', '.join(COST_MODELS)}"
            )
        return COST_MODELS[model](self, by)


COST_MODELS: Mapping[str, Callable[[Account, Coefficients], float]] = {
    "ace": lambda account, _: account.ace,
    "acev2/int-linear": lambda account, by: account.acev2(by),
    "energy45nm": lambda account, _: account.energy45nm_pj,
    "bytes": lambda account, _: float(account.bytes),
}
