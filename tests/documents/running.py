"""The blocks of a page done one after the other, in one folder, as a reader would."""

import contextlib
import functools
import importlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from lpcompile.backends.ort.saturation import adds_pairs_in_int16
from lpcompile.cli import main
from tests.documents.blocks import ROOT, Block
from tests.documents.matching import difference, other_outline
from tests.exact_sums import as_users_have_them

SOURCE = ("lpcompile", "passes", "backends", "models", "tests", "docs")
FILES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "mkdocs.yml",
    "LICENSE",
    "MANIFEST.in",
)


@dataclass
class Reader:
    """Does blocks in `folder`, in this process; `checkout`: in processes that import the copied source there.

    Attributes:
        printed: what the last commands or program wrote.
    """

    folder: Path
    checkout: bool = False
    printed: str = ""
    names: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path, *, checkout: bool) -> "Reader":
        """A folder in which the paths of a page hold: `models/`, or a copy of the whole source."""
        unwanted = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
        for name in SOURCE if checkout else ("models",):
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unwanted)
        if checkout:
            for name in FILES:
                shutil.copy(ROOT / name, folder / name)
        return cls(folder, checkout)

    def read(self, blocks: Iterable[Block], met: Callable[[Block, str], None]) -> None:
        """Do each block; `met(block, printed)` is called for each recorded output."""
        for block in blocks:
            if "output" in block.notes:
                met(block, self.printed)
            elif block.acts:
                self._do(block)

    def _do(self, block: Block) -> None:
        if "file" in block.notes:
            path = self.folder / block.notes["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif "edit" in block.notes:
            _edit(self.folder / block.notes["edit"], block)
        elif block.language == "bash":
            self._commands(block)
        else:
            self._program(block)

    def _commands(self, block: Block) -> None:
        self.printed = ""
        lines = block.text.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines, 1):
            code, text = self._command(shlex.split(line), block)
            self.printed += text
            wanted = int(block.notes.get("exit", 0)) if number == len(lines) else 0
            assert code == wanted, f"{block.place}: {line}\nended with {code}:\n{text}"

    def _command(self, words: list[str], block: Block) -> tuple[int, str]:
        program, *arguments = words
        if program == "cat":
            return 0, "".join((self.folder / name).read_text("utf-8") for name in arguments)
        assert program in ("lpcompile", "python"), f"{block.place}: only lpcompile, python and cat are run"
        if self.checkout:
            return self._process(["-m", "lpcompile", *arguments] if program == "lpcompile" else arguments)
        assert program == "lpcompile", f"{block.place}: python is run on pages with a checkout"
        with _inside(self.folder):
            result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        return result.exit_code, result.output

    def _process(self, arguments: list[str]) -> tuple[int, str]:
        env = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _program(self, block: Block) -> None:
        if self.checkout:
            code, self.printed = self._process(["-c", block.text])
            assert code == 0, f"{block.place}:\n{self.printed}"
            return
        written = io.StringIO()
        compiled = compile(block.text, block.place, "exec")
        with _inside(self.folder), contextlib.redirect_stdout(written):
            exec(compiled, self.names)  # later blocks of a page know the names of earlier ones
        self.printed = written.getvalue()


def _edit(path: Path, block: Block) -> None:
    text = path.read_text("utf-8")
    lines = block.text.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    count = text.count(old)
    assert count == 1, f"{block.place}: the old lines stand {count} times in {block.notes['edit']}"
    path.write_text(text.replace(old, new), "utf-8")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    path = list(sys.path)
    _forget(folder)  # a module of that name may come from another test
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    with contextlib.chdir(folder):
        try:
            yield
        finally:
            sys.path[:] = path
            _forget(folder)


def _forget(folder: Path) -> None:
    for module in folder.glob("*.py"):
        sys.modules.pop(module.stem, None)


@functools.cache
def _of_another_kind() -> bool:
    """Outputs are recorded on x86 with VNNI."""
    with as_users_have_them():
        return adds_pairs_in_int16()


def must_agree(block: Block, printed: str) -> None:
    """Fail where an output is not the recorded one; on a processor of another kind, where it has another outline."""
    differs = other_outline if _of_another_kind() else difference
    wrong = differs(block.text, printed)
    assert wrong is None, f"{block.place}: {wrong}\nprinted:\n{printed}"
