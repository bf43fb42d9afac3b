"""Whether a command ended as documented: answered, or two lines on stderr and an exit code, and nothing left over."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner, Result

from lpcompile.cli import main

DOCUMENTED = {0, 2, 3, 4, 5, 6}
CHECK_FAILED = 1  # only `verify` may end so: a check of a foreign model fails
LONGEST_LINE = 1000


@dataclass(frozen=True)
class Case:
    """One command line on files that were just written.

    Attributes:
        words: of the command line.
        folder: where its files are.
        out: the folder or file that it writes, if any.
        what: how the input was made, for whoever repeats it.
    """

    words: tuple[str, ...]
    folder: Path
    out: Path | None = None
    what: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Verdict:
    """How a command ended: its exit code, and what is wrong with that; None where it ended as documented."""

    code: int
    problem: str | None


def judged(case: Case) -> Verdict:
    """Run a case."""
    before = _hidden(case.folder)
    with _native_noise() as noise, warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(main, list(case.words), catch_exceptions=False)
    found = _wrong_words(case, result)
    if found is None and noise:
        found = f"native code wrote on stderr: {noise[0][:300]}"
    if found is None and result.exit_code and case.out is not None and case.out.exists():
        found = f"exit {result.exit_code}, but {case.out.name} was written"
    if found is None and (left := _hidden(case.folder) - before):
        found = f"left over: {sorted(left)}"
    return Verdict(result.exit_code, found)


def _wrong_words(case: Case, result: Result) -> str | None:
    code, lines = result.exit_code, result.stderr.splitlines()
    if code == CHECK_FAILED and case.words[0] == "verify" and "internal error" not in result.stderr:
        code = 3
    if code not in DOCUMENTED:
        return f"exit {code}: {result.stderr[:600]}"
    if code == 0:
        return None
    if len(lines) < 2 or not lines[-2].startswith("error: ") or not lines[-1].startswith("hint: "):
        return f"exit {code} without an error and a hint: {result.stderr[:600]}"
    if any(line.startswith(("error: ", "hint: ")) for line in lines[:-2]):
        return f"more than two lines: {result.stderr[:600]}"
    if max(map(len, lines)) > LONGEST_LINE:
        return f"a line of {max(map(len, lines))} characters: {result.stderr[:300]}"
    if odd := [c for line in lines for c in line if not c.isprintable()]:
        return f"characters that steer a terminal: {odd[:3]!r}"
    return None


def _hidden(folder: Path) -> set[str]:
    """Temporary files in a folder."""
    return {str(p) for p in folder.rglob("*") if p.name.startswith(".") or p.suffix == ".part"}


@contextmanager
def _native_noise() -> Iterator[list[str]]:
    """What is written to the file descriptor of stderr, past Python; complete once the block is left."""
    said: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            if text := file.read().decode("utf-8", "replace").strip():
                said.append(text)
