"""Broken inputs of every kind, a few of each: answered or refused as documented. `python -m tests.fuzz` tries many."""

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.fuzz.verdict import Case, judged
from tests.fuzz.worker import made_case

FEW = 6


@pytest.mark.sweep
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=FEW, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_broken_inputs(target: str, rng: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdict = judged(TARGETS[target](rng, Path(folder)))
        assert verdict.problem is None


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_many_broken_inputs(target: str, tmp_path: Path) -> None:
    codes = set()
    for index in range(200):
        folder = tmp_path / f"{index}"
        folder.mkdir()
        case = made_case(target, 11, index, folder)
        verdict = judged(case)
        assert verdict.problem is None, f"case {index}: {case.words} {case.what}"
        codes.add(verdict.code)
    assert {0, 3} <= codes or {0, 5} <= codes, "all ended alike: nothing was tried"


def test_a_wrong_end_is_seen(tmp_path: Path) -> None:
    """The judge itself: an internal error, a file that should not be there, and one line too few."""
    from lpcompile.cli import main

    def fails(**_: object) -> None:
        (tmp_path / "out").write_text("half")
        raise KeyError("x")

    def refuses(**_: object) -> None:
        from lpcompile.errors import ModelError

        raise ModelError("no")

    for callback, found in ((fails, "internal error"), (refuses, "without an error and a hint")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main.commands["inspect"], "callback", callback)
            verdict = judged(Case(("inspect", "x"), tmp_path, tmp_path / "out"))
        assert verdict.problem is not None
        assert found in verdict.problem
