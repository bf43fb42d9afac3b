"""What single pages say agrees with the code."""

import inspect
import re

from lpcompile import errors
from lpcompile.errors import LpcompileError
from lpcompile.plan import ROUNDINGS
from lpcompile.recipes import recipe_names
from tests.bench.catalogue import EXPERIMENTS, TABLES
from tests.documents.blocks import ROOT, read

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, LpcompileError)]


def test_the_faq_lists_every_error_under_its_exit_code() -> None:
    rows = re.findall(r"^\| (\d) \| [^|]+ \| ([^|]*)\|$", read("docs/faq.md"), re.MULTILINE)
    listed = {int(code): set(re.findall(r"`(\w+)`", classes)) for code, classes in rows}
    codes = {c.exit_code for c in CLASSES}
    assert listed.pop(0) == set()
    assert listed == {code: {c.__name__ for c in CLASSES if c.exit_code == code} for code in codes}


def test_the_faq_has_a_mend_for_every_error() -> None:
    text = read("docs/faq.md").split("## Exit 2")[1]
    assert [c.__name__ for c in CLASSES if f"`{c.__name__}`" not in text] == ["InputError", "LpcompileError"]


def test_every_recipe_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "recipes").glob("*.md")}
    assert pages == {*recipe_names(), "index"}


def test_all_roundings_are_listed() -> None:
    assert re.findall(r"^\| `([\w-]+)` \| [a-z]", read("docs/reference/rounding.md"), re.MULTILINE)[
        : len(ROUNDINGS)
    ] == list(ROUNDINGS)


def test_every_table_answers_a_claim() -> None:
    section = read("docs/evidence.md").split("## Which table")[1]
    named = [
        w
        for row in section.splitlines()
        if row.startswith("|")
        for w in re.findall(r"`(\w+)`", row.split("|")[2])
    ]
    assert set(named) == {*TABLES, *EXPERIMENTS}
