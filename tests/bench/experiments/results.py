"""What an experiment leaves behind: a CSV with seed and versions in its head, and an SVG."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpcompile.report.document import versions
from tests.bench.experiments.chart import Series, line_chart
from tests.bench.machine import cpu_name

Cell = str | int | float | None


@dataclass
class Results:
    """Rows of one experiment.

    Attributes:
        name: of its files.
        title: what was asked.
        header: names of the columns, with units.
        rows: one a measurement; figures as measured.
        seeds: that took part.
        notes: what to know when reading.
        charts: suffix of the file ("" for the main one) -> SVG text.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    seeds: tuple[int, ...] = (0,)
    notes: list[str] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)

    def chart(self, series: Sequence[Series], *, x: str, y: str, suffix: str = "", title: str = "") -> None:
        """Add a line chart."""
        self.charts[suffix] = line_chart(series, title=title or self.title, x=x, y=y)

    @property
    def csv(self) -> str:
        """Comment lines, then a header and the rows; floats with six digits."""
        out = io.StringIO()
        about = {"cpu": cpu_name(), "seeds": " ".join(map(str, self.seeds)), **versions()}
        for line in (self.title, *self.notes, ", ".join(f"{k} {v}" for k, v in about.items())):
            out.write(f"# {line}\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([_shown(c) for c in row] for row in self.rows)
        return out.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write the CSV and the charts."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {f"{self.name}.csv": self.csv}
        files |= {f"{self.name}{'-' if s else ''}{s}.svg": svg for s, svg in self.charts.items()}
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
        return [folder / name for name in files]


def _shown(cell: Any) -> Any:
    return f"{cell:.6g}" if isinstance(cell, float) else "" if cell is None else cell
