"""What leaves the process: changes, skips, layers, quality. Values without behaviour; `report` renders them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Named(Protocol):
    """Anything with a name: a node or a tensor."""

    @property
    def name(self) -> str:
        """The name a reader finds in the model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a pass did."""

    node: str
    what: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """One thing a pass left alone, and why: as precious as a change."""

    node: str
    reason: str


@dataclass(slots=True)
class PassReport:
    """What one pass did; metrics carry their unit in the key ("sqnr_db", "weight_bytes")."""

    name: str
    changes: list[Change] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def change(self, node: Named | str, what: str, before: str = "", after: str = "") -> None:
        """Record a change at a node or tensor."""
        self.changes.append(Change(node if isinstance(node, str) else node.name, what, before, after))

    def skip(self, node: Named | str, reason: str) -> None:
        """Record why a node or tensor was left alone."""
        self.skips.append(Skip(node if isinstance(node, str) else node.name, reason))


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer with weights as the report shows it, quantised or not."""

    name: str
    op: str
    macs: int
    weight_shape: tuple[int, ...]
    weight_format: str
    weight_granularity: str
    activation_format: str
    rounding: str
    rank: int
    sensitivity: float | None
    sqnr_db_local: float | None
    sqnr_db_end: float | None
    bits_per_weight: float
    weight_bytes: int
    ace: float
    acev2: float
    reason: str


@dataclass(frozen=True, slots=True)
class TableRecord:
    """A constant whose rows a Gather looks up in fewer bytes, as an embedding.

    Attributes:
        name: of the Gather.
        shape: of the table.
        format: that it is stored in.
        bytes, float_bytes: stored, and as floats; of a table that several Gathers read, at each of them.
        sqnr_db: what a reader gets against the float table; None where nothing was lost.
        reason: why.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    bytes: int
    float_bytes: int
    sqnr_db: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Quality:
    """Compiled against float, on calibration samples that decided nothing; `sqnr_error_db` is a standard error."""

    samples: int
    sqnr_db_output: float | None
    sqnr_error_db: float | None
    top1_agreement: float | None
    max_abs_error: float | None
    kl: float | None
    outputs: Mapping[str, float | None]
    held_back: bool
