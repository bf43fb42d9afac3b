"""A change put into running Python."""

import ast
import importlib.util
from pathlib import Path

from tests.bench.code_swap import swap, swaps

SOURCE = """from functools import cache
@cache
def kept(n):
    return n + 1
def plain(n):
    return kept(n) * 2
TOP = plain(1)
"""


def test_a_changed_function_is_called_and_what_it_was_cached_for_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "changed_module.py"
    path.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("changed_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.plain(1) == 4
    found = swaps(path.resolve(), ast.parse(SOURCE.replace("n + 1", "n + 5")))
    assert found is not None
    swap(found)
    assert module.plain(1) == 12


def test_what_runs_at_import_is_no_swap(tmp_path: Path) -> None:
    path = tmp_path / "another_module.py"
    path.write_text(SOURCE, encoding="utf-8")
    assert swaps(path.resolve(), ast.parse(SOURCE.replace("plain(1)", "plain(2)"))) is None
