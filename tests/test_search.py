"""The fewest bits that meet measured bounds: against ONNX Runtime's own answer, and against compilations without it."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import lpcompile
from lpcompile import trials
from lpcompile.analysis.calibration import Calibration
from lpcompile.emission import TooLargeError
from lpcompile.errors import BudgetError, MetricError
from lpcompile.passes import candidate_plans
from lpcompile.prepared import Preparation
from lpcompile.report.text import summary
from tests.support import Array, parse_model, run_model

MODEL = parse_model(
    """m (float[N,3,8,8] x) => (float[N,5] y)
    <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[5,16] w3, float[5] b3> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)  s = Relu (c)
        g = GlobalAveragePool (s)  f = Flatten (g)  y = Gemm <transB = 1> (f, w3, b3)
    }"""
)
RECIPE = """name = "{name}"
summary = "few candidates"
pipeline = '''
fold-constants, canonicalize, fold-batchnorm, quantize-activations{{cost=none}}, {assign}
quantize-weights{{format=fixp4,granularity=group,group-size=32,rule=output-mse,scale-format=ufloat8_e4m4,sweeps=0}},
correct-bias
'''
"""
ASSIGN = "assign-formats{formats=fixp4+nf4+int8,granularities=channel+group16,joint=2,samples=16},"
SQNR = 44.0  # between what 4 bits and 8 bits give


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "few.toml"
    path.write_text(RECIPE.format(name="few", assign=ASSIGN), "utf-8")
    return str(path)


@functools.cache
def samples() -> Calibration:
    rng = np.random.default_rng(0)
    return Calibration(
        [{"x": rng.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)} for _ in range(16)], "here"
    )


def compiled(recipe: str, *, budget: dict[str, float], **options: Any) -> lpcompile.Artefacts:
    return lpcompile.compile(MODEL, calibration=samples(), recipe=recipe, budget=budget, **options)


def noise_db(artefacts: lpcompile.Artefacts, calls: Sequence[dict[str, Array]]) -> float:
    """SQNR of the compiled model as ONNX Runtime runs it."""
    signal = noise = 0.0
    for call in calls:
        wanted, found = run_model(MODEL, call)["y"], run_model(artefacts.model, call)["y"]
        signal += float(np.square(wanted, dtype=np.float64).sum())
        noise += float(np.square(found.astype(np.float64) - wanted).sum())
    return 10 * float(np.log10(signal / noise))


@functools.cache
def unseen() -> tuple[Array, Array]:
    """Inputs of a metric, and the float model's answers."""
    x = np.random.default_rng(1).uniform(-1, 1, (64, 3, 8, 8)).astype(np.float32)
    return x, run_model(MODEL, {"x": x})["y"]


def error(session: ort.InferenceSession) -> float:
    """Noise over signal, in thousandths."""
    x, y = unseen()
    (found,) = session.run(None, {"x": x})
    return 1e3 * float(np.square(found - y).sum() / np.square(y).sum())


error.smaller_is_better = True  # type: ignore[attr-defined]


@dataclass
class Watched:
    """A search, the passes that were observed and the progress that was told."""

    found: lpcompile.Artefacts
    observed: list[tuple[int, str]]
    told: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def watched(recipe: str) -> Watched:
    """The fewest bits at SQNR decibels."""
    observed: list[tuple[int, str]] = []
    told: list[tuple[str, int, int]] = []
    found = compiled(
        recipe,
        budget={"sqnr-db": SQNR},
        observe=lambda index, done, _graph, _report: observed.append((index, done.name)),
        progress=lambda step: told.append((step.what, step.done, step.total)),
    )
    return Watched(found, observed, told)


@pytest.fixture(scope="module")
def found(watched: Watched) -> lpcompile.Artefacts:
    return watched.found


def test_the_bound_is_met_by_what_is_written(found: lpcompile.Artefacts) -> None:
    assert noise_db(found, samples().judging) >= SQNR
    assert found.report["quality"]["sqnr_db_output"] >= SQNR


@pytest.mark.thorough
def test_less_does_not_meet_it(found: lpcompile.Artefacts, recipe: str) -> None:
    search = found.report["search"]
    missed = [e for e in search["evaluations"] if not e["ok"]]
    widest = max(missed, key=lambda e: e["budget"])
    assert search["avg_bits"] - widest["budget"] <= 0.06
    less = compiled(recipe, budget={"avg-bits": widest["budget"]})
    assert noise_db(less, samples().deciding) < SQNR


def test_the_report_documents_every_evaluation(found: lpcompile.Artefacts) -> None:
    search = found.report["search"]
    assert search["bounds"] == {"sqnr-db": SQNR}
    assert search["evaluated"] == len(search["evaluations"]) <= 6
    for e in search["evaluations"]:
        assert e["ok"] == (e["values"]["sqnr-db"] >= SQNR)
        assert e["avg_bits"] <= e["budget"]
    assert search["avg_bits"] == min(e["avg_bits"] for e in search["evaluations"] if e["ok"])
    assert found.report["totals"]["bits_per_weight"] == pytest.approx(search["avg_bits"], abs=0.02)
    json.dumps(found.report)


def test_the_summary_has_a_line_of_it(found: lpcompile.Artefacts) -> None:
    (line,) = [row for row in summary(found.report).splitlines() if row.startswith("search")]
    search = found.report["search"]
    assert f"{search['avg_bits']:.2f} bits after {search['evaluated']} evaluations: sqnr-db" in line
    assert "(bound 44)" in line


@pytest.mark.thorough
def test_what_was_kept_is_what_a_compilation_at_that_width_gives(
    found: lpcompile.Artefacts, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with temporaries, which run the passes again, and once with nothing kept."""
    stepwise = compiled(recipe, budget={"sqnr-db": SQNR}, save_temps=True)
    assert len(stepwise.temporaries) == 7
    assert stepwise.decisions == found.decisions
    monkeypatch.setattr(trials, "HELD_BYTES", 0)
    lean = compiled(recipe, budget={"sqnr-db": SQNR})  # the same seed finds the same
    assert lean.model.SerializeToString() == found.model.SerializeToString()


def test_decisions_of_a_search_are_replayed_to_the_byte(
    found: lpcompile.Artefacts, recipe: str, tmp_path: Path
) -> None:
    path = tmp_path / "decisions.toml"
    path.write_text(found.decisions, "utf-8")
    again = compiled(recipe, budget={"sqnr-db": SQNR}, decisions=path)
    assert "search" not in again.report
    assert again.model.SerializeToString() == found.model.SerializeToString()
    assert again.decisions == found.decisions


def test_every_pass_is_observed_once_and_progress_is_told(watched: Watched) -> None:
    assert [i for i, _ in watched.observed] == list(range(7))
    assert [name for _, name in watched.observed][4:] == [
        "assign-formats",
        "quantize-weights",
        "correct-bias",
    ]
    steps = [(done, total) for what, done, total in watched.told if what == "searching the fewest bits"]
    assert steps[0][0] == 0
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.thorough
def test_a_bound_on_bits_is_the_most_that_is_tried(recipe: str) -> None:
    found = compiled(recipe, budget={"sqnr-db": 38.0, "avg-bits": 6.0})
    assert max(e["budget"] for e in found.report["search"]["evaluations"]) == 6.0
    assert found.report["totals"]["bits_per_weight"] <= 6.0


@pytest.mark.thorough
def test_an_impossible_bound_names_the_nearest_point(recipe: str) -> None:
    with pytest.raises(BudgetError, match=r"sqnr-db 80 is not met: it is 5\d\.\d+ at 8\.\d+ bits") as caught:
        compiled(recipe, budget={"sqnr-db": 80.0})
    assert caught.value.hint is not None
    assert "loosen the bound to sqnr-db=5" in caught.value.hint
    assert set(caught.value.nearest) == {"avg-bits", "sqnr-db"}
    with pytest.raises(BudgetError, match="sqnr-db 48 is not met") as caught:
        compiled(recipe, budget={"sqnr-db": 48.0, "avg-bits": 4.6})
    assert caught.value.hint is not None
    assert "allow more than avg-bits=4.6" in caught.value.hint


@pytest.mark.thorough
def test_a_metric_of_the_python_api_is_a_function(recipe: str) -> None:
    bound = 0.04
    found = compiled(recipe, budget={"metric-drop": bound}, metric=error)
    metric, search = found.report["metric"], found.report["search"]
    assert metric["function"] == f"{__name__}:error"
    assert metric["smaller_is_better"] is True
    assert metric["float"] == pytest.approx(0, abs=1e-6)
    session = ort.InferenceSession(found.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert metric["compiled"] == pytest.approx(error(session), rel=1e-3)
    assert metric["drop"] == pytest.approx(metric["compiled"] - metric["float"])
    assert metric["drop"] <= bound
    assert any(e["values"]["metric-drop"] > bound for e in search["evaluations"])
    assert found.report["created_with"]["options"]["metric"] == f"{__name__}:error"
    json.dumps(found.report)


@pytest.mark.thorough
def test_a_metric_without_a_bound_is_reported_and_decides_nothing(recipe: str) -> None:
    with_metric = compiled(recipe, budget={"avg-bits": 5.0}, metric=error)
    without = compiled(recipe, budget={"avg-bits": 5.0})
    assert "search" not in with_metric.report
    assert with_metric.report["metric"]["compiled"] > 0
    assert with_metric.model.SerializeToString() == without.model.SerializeToString()


@pytest.mark.thorough
def test_a_model_is_scored_once(recipe: str) -> None:
    calls = []

    def counted(session: ort.InferenceSession) -> float:
        calls.append(session)
        return error(session)

    counted.smaller_is_better = True  # type: ignore[attr-defined]
    found = compiled(recipe, budget={"metric-drop": 0.04}, metric=counted)
    different = {e["avg_bits"] for e in found.report["search"]["evaluations"]}
    assert len(calls) == 1 + len(different), "the float model, and each that was compiled"


def test_recipes_without_a_choice_are_only_checked(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(RECIPE.format(name="one", assign=""), "utf-8")
    found = compiled(str(path), budget={"metric-drop": 10.0, "sqnr-db": 10.0}, metric=error)
    assert "search" not in found.report
    with pytest.raises(BudgetError, match="metric-drop is"):
        compiled(str(path), budget={"metric-drop": 1e-6}, metric=error)


@pytest.mark.thorough
def test_what_misses_a_bound_on_held_back_calls_is_asked_for_with_more_to_spare(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first confirmation is made to miss by 2 dB."""
    first, judged = [True], trials.Trials.judged

    def worse(self: trials.Trials, trial: trials.Trial) -> Any:
        graph, emission, values = judged(self, trial)
        if first.pop() if first else False:
            values = {**values, "sqnr-db": SQNR - 2}
        return graph, emission, values

    monkeypatch.setattr(trials.Trials, "judged", worse)
    found = compiled(recipe, budget={"sqnr-db": SQNR})
    search = found.report["search"]
    assert any(f"not on the judging calls: sqnr-db {SQNR - 2:g}" in note for note in search["notes"])
    (chosen,) = [e for e in search["evaluations"] if e["avg_bits"] == search["avg_bits"]]
    assert chosen["values"]["sqnr-db"] >= SQNR + 2


def test_agreement_needs_classes(recipe: str) -> None:
    model = parse_model(
        "m (float[N,3,8,8] x) => (float[N,1] y) <float[4,3,3,3] w, float[4,1] v> {"
        "c = Conv (x, w)  g = GlobalAveragePool (c)  f = Flatten (g)  y = MatMul (f, v) }"
    )
    with pytest.raises(BudgetError, match="agreement cannot be measured"):
        lpcompile.compile(model, calibration=samples(), recipe=recipe, budget={"agreement": 0.9})


@pytest.mark.thorough
def test_a_function_is_still_known_where_the_model_is_compiled_again(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Preparation.of

    def of(self: Preparation, *args: Any, strict: bool = False, **rest: Any) -> Any:
        if not strict:
            raise TooLargeError("too large")
        return once(self, *args, strict=strict, **rest)

    monkeypatch.setattr(Preparation, "of", of)
    found = compiled(recipe, budget={"avg-bits": 5.0}, metric=lambda session: error(session))
    assert found.report["metric"]["compiled"] > 0
    assert any("compiled again" in w for w in found.report["warnings"])


def test_a_failing_metric_ends_the_compilation(recipe: str) -> None:
    def broken(session: ort.InferenceSession) -> float:
        raise KeyError("labels")

    with pytest.raises(MetricError, match="KeyError: 'labels'"):
        compiled(recipe, budget={"metric-drop": 0.1}, metric=broken)


@pytest.mark.thorough
def test_float_layers_count_among_the_bits(recipe: str) -> None:
    first = "Conv_0"
    found = compiled(recipe, budget={"sqnr-db": 38.0}, keep_float=(first,))
    rows = {row["name"]: row for row in found.report["layers"]}
    assert rows[first]["weight_format"] == "float32"
    assert found.report["totals"]["bits_per_weight"] == pytest.approx(
        found.report["search"]["avg_bits"], abs=0.02
    )
    assert found.report["search"]["avg_bits"] > 4.1 + 27 * 432 / (432 + 2304 + 80), "float weights are many"


@pytest.mark.thorough
def test_checkpoints_of_retraining_are_not_mixed_between_widths(recipe: str, tmp_path: Path) -> None:
    found = compiled(recipe, budget={"sqnr-db": 30.0}, tuning={"epochs": "1"}, checkpoint=tmp_path / "states")
    assert any("no checkpoints are kept" in w for w in found.report["warnings"])
    assert not (tmp_path / "states").exists()
    assert found.report["quality"]["sqnr_db_output"] >= 30


@pytest.mark.thorough
def test_what_was_refused_is_not_asked_again() -> None:
    """Few samples: what the deciding calls promise, the judging calls do not keep, by several dB."""
    model = parse_model("""m (float[N,16] x) => (float[N,8] y)
        <float[16,32] w, float[32] b, float[32,32] u, float[32,8] v> {
            t = MatMul (x, w)  t1 = Add (t, b)  r = Relu (t1)  q = MatMul (r, u)  s = Relu (q)  y = MatMul (s, v) }""")
    calls = [{"x": np.random.default_rng(i).normal(size=(2, 16)).astype(np.float32)} for i in range(8)]
    least = lpcompile.compile(model, calibration=calls, budget={"sqnr-db": 3})
    bound = least.report["quality"]["sqnr_db_output"] + 1
    found = lpcompile.compile(model, calibration=calls, budget={"sqnr-db": bound}).report
    notes = [n for n in found["search"]["notes"] if "judging calls" in n]
    assert notes
    assert len(set(notes)) == len(notes)
    assert found["quality"]["sqnr_db_output"] >= bound
    assert found["search"]["avg_bits"] < 8  # not at once the widest


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"bits": 4}, "no bound 'bits'"),
        ({"avg-bits": float("nan")}, "bound on avg-bits is nan"),
        ({"bytes": -1}, "bound on bytes is -1"),
        ({"posit-fraction": 1.5}, "rate up to 1"),
        ({"metric-drop": 0.1}, "metric-drop cannot be measured"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(recipe: str, budget: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        compiled(recipe, budget=budget)


@pytest.mark.parametrize("many", [1, 10**6])
def test_in_large_networks_it_goes_below_four_bits(
    many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_plans, "MANY_WEIGHTS", many)
    path = tmp_path / "all.toml"
    assign = "assign-formats{granularities=channel,joint=0,samples=4},"
    path.write_text(RECIPE.format(name="all", assign=assign), "utf-8")
    found = compiled(str(path), budget={"sqnr-db": 12.0}).report
    taken = {layer["weight_format"].partition(":")[0] for layer in found["layers"]}
    assert found["quality"]["sqnr_db_output"] > 12
    assert (found["totals"]["bits_per_weight"] < 4) == ("int3" in taken) == (many == 1)
