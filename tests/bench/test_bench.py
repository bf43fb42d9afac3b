"""Each table of the bench, made quickly: `pytest tests/bench -m bench`. Figures are printed, never judged."""

import importlib

import pytest

from tests.bench.__main__ import main
from tests.bench.bench_table import Bench
from tests.bench.catalogue import NEED_ZOO, TABLES
from tests.zoo.entries import find_zoo

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("name", TABLES)
def test_table(name: str) -> None:
    zoo = find_zoo()
    if name in NEED_ZOO and zoo is None:
        pytest.skip("LPCOMPILE_ZOO names no folder with a zoo.json")
    made = importlib.import_module(f"tests.bench.{name}").measure(Bench(zoo, quick=True))
    assert made.rows
    assert all(len(row) == len(made.header) for row in made.rows)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "encode", "--quick"]) == 0
    assert "fixp4" in capsys.readouterr().out
