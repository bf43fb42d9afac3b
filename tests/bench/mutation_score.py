"""Do the tests see a changed program? `python -m tests.bench.mutation_score --count N --seed S [--csv FILE]`.

Draws single changes of comparisons, arithmetic, constants and conditions from the modules below, runs the tests that
cover each, and counts the changes that make a test fail. A change within a function is put into a fork that has
imported everything, any other into a copy of the checkout, which is not touched itself. Some survivors change nothing
that can be seen; the table is to be read, not summed up only.
"""

import argparse
import ast
import contextlib
import csv
import gc
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import CodeType, FunctionType

import pytest

from lpcompile.report.table import table
from tests.bench.code_swap import swap, swaps

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
PYTEST = ("-x", "-q", "-n0", "-p", "no:cacheprovider")
NO_TESTS = 5  # were chosen
THOROUGH = (
    "-m",
    "thorough and not slow and not bench and not zoo and not wheel",
)  # what the gate runs besides
COVERED = {  # folder of modules -> tests that cover it
    "lpcompile/formats": ("tests/formats",),
    "lpcompile/quant": ("tests/quant",),
    "backends/cim": ("tests/backends/cim",),
}
LEFT_OUT = (
    "simulator",
    "validation",
    "energy",
    "chrome_trace",
    "activity",
    "latency",
)
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Add, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Pow: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: of the node that comes `index`-th among those of a module that can be changed."""

    module: str
    index: int
    line: int
    change: str


class _Changer(ast.NodeTransformer):
    """Counts what can be changed, and changes the one with the wanted index.

    Annotations, texts and decorators of classes are left alone.
    """

    def __init__(self, wanted: int = -1) -> None:
        self.wanted = wanted
        self.found: list[tuple[int, str]] = []

    def _turn(self, line: int, change: str) -> bool:
        self.found.append((line, change))
        return len(self.found) - 1 == self.wanted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for i, op in enumerate(node.ops):
            new = _COMPARED[type(op)]
            if self._turn(node.lineno, f"{type(op).__name__} -> {new.__name__}"):
                node.ops[i] = new()
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        new = _COMPUTED.get(type(node.op))
        texts = any(isinstance(x, (ast.JoinedStr, ast.Tuple, ast.List)) for x in (node.left, node.right))
        if (
            new is not None
            and not texts
            and self._turn(node.lineno, f"{type(node.op).__name__} -> {new.__name__}")
        ):
            node.op = new()
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        new = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        if self._turn(node.lineno, f"{type(node.op).__name__} -> {type(new).__name__}"):
            node.op = new
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, (ast.Not, ast.USub)) and self._turn(
            node.lineno, f"{type(node.op).__name__} dropped"
        ):
            operand: ast.AST = self.visit(node.operand)
            return operand
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        if self._turn(node.lineno, "branches exchanged"):
            node.body, node.orelse = node.orelse, node.body
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, (int, float)) and self._turn(node.lineno, f"{node.value!r} -> another"):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            return ast.copy_location(ast.Constant(value), node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Flags of its decorators say what nothing does: they are left alone."""
        node.body = [self.visit(part) for part in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node


def modules(folder: str) -> Iterator[str]:
    """Modules whose changes count."""
    for path in sorted((ROOT / folder).glob("*.py")):
        if not path.name.startswith("_") and not path.stem.startswith(LEFT_OUT):
            yield str(path.relative_to(ROOT))


def mutants(folder: str) -> list[Mutant]:
    """Every change of the modules of a folder."""
    found = []
    for module in modules(folder):
        changer = _Changer()
        changer.visit(ast.parse((ROOT / module).read_text("utf-8")))
        found += [Mutant(module, i, line, change) for i, (line, change) in enumerate(changer.found)]
    return found


def likely_first(module: str, tests: tuple[str, ...], copy: Path) -> list[list[str]]:
    """Arguments of pytest: files of the module's own name, those that import it wherever they stand, all others of the
    folders; then thorough tests.
    """
    parts: list[list[str]] = [[], [], []]
    stem = Path(module).stem
    for file in sorted((copy / "tests").rglob("test_*.py")):
        imports = f"{module.removesuffix('.py').replace('/', '.')} import" in _as_package(
            file.read_text("utf-8")
        )
        near = any(file.is_relative_to(copy / folder) for folder in tests)
        if near or imports:
            parts[0 if file.stem == f"test_{stem}" else 1 if imports else 2].append(str(file))
    found = [part for part in parts if part]
    return [*found, *([*THOROUGH, *part] for part in found)]


def _as_package(text: str) -> str:
    """Backends are imported through the package and lie beside it."""
    return text.replace("lpcompile.backends.", "backends.")


def _limited() -> None:
    """Ends a change that never ends, by its own processor time: a busy machine kills none."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def survives(mutant: Mutant, tests: tuple[str, ...], copy: Path) -> bool:
    """Whether all tests pass with the change."""
    path = ROOT / mutant.module
    changed = swaps(path, _Changer(mutant.index).visit(ast.parse(path.read_text("utf-8"))))
    if changed is None:
        return _survives_in(copy, mutant, tests)
    parts = likely_first(mutant.module, tests, ROOT)
    return all(_passes_forked(chosen, changed) for chosen in parts)


def _passes_forked(files: list[str], changed: list[tuple[FunctionType, CodeType]]) -> bool:
    child = os.fork()
    if not child:
        passed = False
        try:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silent, stream)
            _limited()
            swap(changed)
            passed = pytest.main([*PYTEST, *files]) in (0, NO_TESTS)
        finally:
            os._exit(not passed)
    return not os.waitpid(child, 0)[1]


def _survives_in(copy: Path, mutant: Mutant, tests: tuple[str, ...]) -> bool:
    target = copy / mutant.module
    before = target.read_text("utf-8")
    tree = _Changer(mutant.index).visit(ast.parse(before))
    target.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    quick = [sys.executable, "-m", "pytest", *PYTEST]
    try:
        for chosen in likely_first(mutant.module, tests, copy):
            done = subprocess.run(
                [*quick, *chosen], cwd=copy, env=env, capture_output=True, preexec_fn=_limited, check=False
            )
            if done.returncode not in (0, NO_TESTS):
                return False
    finally:
        target.write_text(before, encoding="utf-8")
    return True


def main() -> None:
    """Try the changes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mutation_score", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="changes of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COVERED, help="one folder")
    parser.add_argument("--csv", type=Path, help="write every change and what became of it")
    asked = parser.parse_args()
    rows, tried = [], []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        skipped = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".venv*")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
        for name in [asked.only] if asked.only else COVERED:
            with contextlib.redirect_stdout(io.StringIO()):
                pytest.main(["--collect-only", *PYTEST, *COVERED[name]])  # imports what forks need
            gc.unfreeze()  # tests/conftest.py; what is frozen is not found
            known = mutants(name)
            chosen = Random(f"{asked.seed}/{name}").sample(known, min(asked.count, len(known)))
            killed = 0
            for mutant in chosen:
                alive = survives(mutant, COVERED[name], copy)
                killed += not alive
                tried.append((mutant.module, mutant.line, mutant.change, "survived" if alive else "killed"))
                print(*tried[-1], flush=True)
            rows.append((name, len(known), len(chosen), killed, f"{100 * killed / len(chosen):.0f} %"))
    print(table(("folder", "changes", "tried", "killed", "score"), rows))
    if asked.csv is not None:
        with asked.csv.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("module", "line", "change", "fate"), *tried])


if __name__ == "__main__":
    main()
