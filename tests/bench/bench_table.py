"""What a table of the bench is made with, and what it is."""

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lpcompile
from tests.zoo.entries import Zoo

SHIPPED = Path(__file__).resolve().parents[2] / "models"


@dataclass
class Table:
    """Rows of cells, and remarks below them."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """What was asked for; compiled models are made once for all tables."""

    zoo: Zoo | None
    quick: bool = False
    entries: tuple[str, ...] = ()
    efforts: tuple[int, ...] = ()
    networks: Path = SHIPPED

    def names(self, wanted: tuple[str, ...], quick: tuple[str, ...]) -> tuple[str, ...]:
        """Zoo entries of a table."""
        assert self.zoo is not None
        chosen = self.entries or (quick if self.quick else wanted)
        return tuple(n for n in chosen if n in self.zoo.entries)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every zoo entry."""
        return () if self.zoo is None else tuple(self.zoo.entries)

    def compiled(self, name: str, **options: Any) -> lpcompile.Artefacts:
        """A zoo entry compiled with all its calibration samples."""
        assert self.zoo is not None
        return _compiled(self.zoo.root, name, tuple(sorted(options.items())))

    def model(self, name: str, **options: Any) -> bytes:
        """The same as bytes."""
        return bytes(self.compiled(name, **options).model.SerializeToString(deterministic=True))


@functools.lru_cache(maxsize=24)
def _compiled(root: Path, name: str, options: tuple[tuple[str, Any], ...]) -> lpcompile.Artefacts:
    zoo = Zoo(root)
    return lpcompile.compile(zoo.model(name), calibration=zoo.samples(name), **dict(options))


@functools.cache
def scratch() -> Path:
    """A folder for this run, removed at its end."""
    made = tempfile.TemporaryDirectory(prefix="lpcompile-bench-")
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
