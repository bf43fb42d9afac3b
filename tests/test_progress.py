"""What a caller is told of the way, and that it can end a compilation."""

import time
from pathlib import Path
from typing import Any

import pytest

import lpcompile
from lpcompile.cli._output import Progress
from lpcompile.errors import ModelError
from lpcompile.progress import Step, Steps
from tests.networks import shipped, shipped_data, toy, toy_calls

NAME = "residual_add"


class StopError(Exception):
    """What a caller raises."""


def told(**given: Any) -> list[Step]:
    steps: list[Step] = []
    given = {"calibration": toy_calls(NAME), "recipe": "w4a8", **given}
    lpcompile.compile(toy(NAME), **{"progress": steps.append, **given})
    return steps


def test_fraction_and_seconds_left() -> None:
    assert Step("", "x", 0, 4, 1.0).seconds_left is None
    assert Step("", "x", 1, 4, 0.001).seconds_left is None  # too early to tell
    assert Step("", "x", 1, 4, 2.0).seconds_left == 6.0
    assert Step("", "x", 4, 4, 2.0).seconds_left == 0.0
    assert [Step("", "x", d, t, 0).fraction for d, t in ((0, 0), (1, 4), (5, 4))] == [0.0, 0.25, 1.0]


def test_time_counts_from_the_start_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 13.0, 20.0, 21.0, 30.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    steps: list[Step] = []
    progress = Steps(steps.append)
    for what, done in (("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 1)):
        progress(what, done, 2)
    assert [s.seconds for s in steps] == [0.0, 1.0, 0.0, 7.0, 0.0]


def test_every_pass_is_entered_in_order_and_loops_belong_to_one() -> None:
    steps = told()
    report = lpcompile.compile(toy(NAME), calibration=toy_calls(NAME), recipe="w4a8").report
    entered = [s.pass_name for s in steps if s.total == 0]
    assert entered == [p["name"] for p in report["passes"] if p["name"] != "emit"]
    assert {s.what: s.pass_name for s in steps if s.pass_name}["rounding weights"] == "quantize-weights"
    assert {s.what for s in steps if not s.pass_name} >= {"running the float model", "checking layers"}
    assert all(0 <= s.done <= s.total for s in steps)


@pytest.mark.thorough
def test_machines_and_timing_tell_too() -> None:
    built = {s.what for s in told(target="cim", recipe="int8")}
    assert "building the program" in built
    assert "timing both models" in {s.what for s in told(benchmark=True)}


@pytest.mark.sweep
@pytest.mark.parametrize(("target", "recipe"), [("ort", "w4a8"), ("ort", "auto"), ("cim", "int8")])
def test_an_exception_at_any_step_ends_it_and_nothing_is_written(
    target: str, recipe: str, tmp_path: Path
) -> None:
    steps = told(target=target, recipe=recipe)
    kinds = dict.fromkeys((s.pass_name, s.what) for s in steps)
    assert len(kinds) > 8
    for kind in kinds:

        def stop(step: Step, kind: tuple[str, str] = kind) -> None:
            if (step.pass_name, step.what) == kind:
                raise StopError

        with pytest.raises(StopError):
            told(target=target, recipe=recipe, progress=stop, output=tmp_path / "out")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "what", ["checking layers", "comparing with the float model", "measuring what it gained"]
)
def test_errors_of_our_own_kind_are_not_taken_for_ours(what: str, tmp_path: Path) -> None:
    """Some steps try something and go on where it fails: a caller's error must not look like that."""

    def stop(step: Step) -> None:
        if step.what == what:
            raise ModelError("enough")

    with pytest.raises(ModelError, match="enough"):
        told(progress=stop, output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told(output=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def stop(step: Step) -> None:
        if step.what == "checking layers":
            raise StopError

    with pytest.raises(StopError):
        told(progress=stop, output=out, force=True, recipe="int8")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_analyze_tells_steps() -> None:
    steps: list[Step] = []
    lpcompile.analyze(
        shipped("digits_resnet"), shipped_data("digits_resnet"), samples=8, progress=steps.append
    )
    assert "fisher" in {s.what for s in steps}


def bars(steps: list[Step], *, shown: bool = True) -> list[Any]:
    """Labels of the bars that the command line draws."""
    progress, found = Progress(shown=shown), list[Any]()
    for step in steps:
        progress(step)
        if progress._bar is not None and progress._bar not in found:
            found.append(progress._bar)
    progress.close()
    return found


def test_bars_are_for_loops_of_more_than_two_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    quick = [Step("p", "quick", d, 10, 0.1 * d) for d in range(11)]
    slow = [Step("p", "slow", d, 10, 0.5 * d) for d in range(11)]
    late = [Step("", "late", 0, 2, 2.5), Step("", "late", 2, 2, 5.0)]
    assert [b.label for b in bars([*quick, *slow, *late])] == ["p: slow", "late"]
    assert bars([*quick, *slow, *late], shown=False) == []
    assert capsys.readouterr().out == ""
