"""What other tools reach on the networks of a zoo: the tables of its BASELINES.md, read when they are asked for.

One table an entry, under a heading "## ENTRY (METRIC, float SCORE)", of the columns of `COLUMNS`. Cells that are empty
or hold words (a tool's result that did not run) have no figure.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

FILE = "BASELINES.md"
COLUMNS = ("setting", "tool", "config", "score", "drop", "SQNR dB", "bytes", "s")
_HEADING = re.compile(r"## (?P<entry>\S+) \((?P<metric>\w+), float (?P<score>[-+.\d]+)\)\s*")
_FIGURE = re.compile(r"[-+]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Baseline:
    """One row: a tool's result on an entry.

    Attributes:
        setting: widths of weights and activations, as "W4A8" or "W4A4 ends A8".
        tool: its name; a star at its end marks what a user of the tool does not get by asking.
        config: how it was called.
        score: the entry's metric; None where the model did not run.
        drop: from the float score, positive where the model is worse.
        sqnr_db: of the first output on 64 evaluation samples.
        size: of the file in bytes.
        seconds: that the tool took.
    """

    setting: str
    tool: str
    config: str
    score: float | None
    drop: float | None
    sqnr_db: float | None
    size: float | None
    seconds: float | None


@dataclass(frozen=True)
class EntryBaselines:
    """The table of one entry.

    Attributes:
        metric, float_score: of the float model.
        rows: in the order of the file.
    """

    metric: str
    float_score: float
    rows: list[Baseline] = field(default_factory=list)

    def of(self, widths: str) -> list[Baseline]:
        """Rows with these widths, whatever else is said of their ends or depthwise layers, that have an SQNR."""
        return [r for r in self.rows if r.setting.split()[0] == widths and r.sqnr_db is not None]


def parse_baselines(text: str) -> dict[str, EntryBaselines]:
    """Tables by entry; text outside of them is left out.

    Raises:
        ValueError: a table with other columns, a row with too few cells, or an entry that comes twice.
    """
    found: dict[str, EntryBaselines] = {}
    entry: EntryBaselines | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            heading = _HEADING.fullmatch(line)
            entry = None
            if heading is not None:
                if heading["entry"] in found:
                    raise ValueError(f"line {number}: '{heading['entry']}' comes twice")
                entry = EntryBaselines(heading["metric"], float(heading["score"]))
                found[heading["entry"]] = entry
        elif line.startswith("|") and entry is not None:
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if len(cells) != len(COLUMNS):
                raise ValueError(f"line {number}: {len(cells)} cells, not {len(COLUMNS)}")
            if set("".join(cells)) <= set("-:"):
                continue
            if cells[0] == COLUMNS[0]:
                if tuple(cells) != COLUMNS:
                    raise ValueError(f"line {number}: the columns are {', '.join(cells)}")
                continue
            entry.rows.append(Baseline(cells[0], cells[1], cells[2], *map(_figure, cells[3:])))
    return found


def read_baselines(root: Path) -> dict[str, EntryBaselines]:
    """The tables of a zoo folder; empty where it has none.

    Raises:
        ValueError: as `parse_baselines`.
    """
    path = root / FILE
    return parse_baselines(path.read_text("utf-8")) if path.is_file() else {}


def _figure(cell: str) -> float | None:
    return float(cell) if _FIGURE.fullmatch(cell) else None
