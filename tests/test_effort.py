"""What -O0 to -O3 mean: passes, notes, command lines; and learned codes from end to end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.errors import DecisionsError, GradientError
from lpcompile.passes import expected_time
from lpcompile.recipe_passes import effort_document, has_few_bits, recipe_passes
from lpcompile.recipes import load_recipe
from lpcompile.registry import pass_class, target
from lpcompile.target import Options
from tests.cli.cli_runner import lpcompile as command
from tests.quantizing import GRAPH_PASSES, NO_COSTS, quantized
from tests.support import parse_model

AFTER = ("correct-bias", "requantize-weights", "reconstruct-blocks", "tune-weights")
NET = """m (float[N,16] x) => (float[N,5] y) <float[16,32] w, float[32,5] v> {
    h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }"""

CNN = """m (float[N,3,6,6] x) => (float[N,5] y)
<float[4,3,3,3] u, float[4] a, float[4,4,3,3] v, float[4,4,3,3] w, float[4,5] t> {
    b = Conv <pads = [1, 1, 1, 1]> (x, u, a)  r = Relu (b)  c = Conv <pads = [1, 1, 1, 1]> (r, v)  s = Relu (c)
    d = Conv <pads = [1, 1, 1, 1]> (s, w)  e = Relu (d)  p = GlobalAveragePool (e)  f = Flatten (p)
    y = MatMul (f, t) }"""


def passes(recipe: str, **given: Any) -> tuple[Any, ...]:
    options = Options(**given)
    return recipe_passes(target("ort"), options, load_recipe(recipe), None, strict=False)


@pytest.mark.parametrize(
    ("recipe", "effort", "wanted"),
    [
        ("w4a8", 0, ()),
        ("w4a8", 1, AFTER[:2]),
        ("w4a8", 2, AFTER[:3]),
        ("w4a8", 3, AFTER),
        ("w4a4", 1, AFTER[:2]),
        ("w4a4", 2, (AFTER[0], AFTER[2])),
        ("auto", 2, AFTER[:3]),
        ("int8", 0, ()),
        ("int8", 1, AFTER[:1]),
        ("int8", 2, AFTER[:1]),
        ("int8", 3, AFTER[:1]),
        ("fp32", 3, ()),
        ("mixed-posit-tuned", 2, AFTER),
    ],
)
def test_what_each_level_runs_after_rounding(recipe: str, effort: int, wanted: tuple[str, ...]) -> None:
    found = passes(recipe, effort=effort)
    names = [p.name for p in found]
    assert tuple(n for n in names if n in AFTER) == wanted
    document = effort_document(found, Options(effort=effort))
    assert document["level"] == effort
    assert document["learned_by"] == [n for n in wanted if n in AFTER[2:]]
    assert bool(document["note"]) is (effort > 1 and not has_few_bits(found))


@pytest.mark.parametrize(("effort", "wanted"), [(1, -1), (2, 3), (3, 3)])
def test_finalists_are_all_tried_where_time_is_given(effort: int, wanted: int) -> None:
    (again,) = (p for p in passes("auto", effort=effort) if p.name == "requantize-weights")
    assert again.finalists == wanted


@pytest.mark.parametrize(
    ("recipe", "given", "wanted"),
    [
        ("auto", {}, None),
        ("auto", {"activation_format": "uint8"}, None),
        ("auto", {"activation_format": "uint4"}, "output-error"),
        ("auto", {"activation_format": "uint4", "effort": 0}, None),
        ("w4a8", {"activation_format": "uint4"}, "output-error"),
        ("w4a4", {}, None),
        ("w4a4", {"activation_format": "uint4"}, "output-error"),
        ("int8", {"activation_format": "uint4"}, "ranges"),  # its own
        ("fp32", {"activation_format": "uint4"}, None),
    ],
)
def test_channels_are_made_alike_where_activations_are_narrow(
    recipe: str, given: Mapping[str, Any], wanted: str | None
) -> None:
    found = passes(recipe, **given)
    assert [p.method for p in found if p.name == "equalize"] == ([] if wanted is None else [wanted])
    if wanted is not None:
        names = [p.name for p in found if p.name != "smooth-inputs"]
        at = names.index("quantize-activations")
        before = ["equalize", "widen-sums"] if given.get("activation_format") == "uint4" else ["equalize"]
        assert names[at - len(before) : at] == before


def test_inputs_are_smoothed_after_channels_are_made_alike_and_not_at_effort_0() -> None:
    narrow = [p.name for p in passes("auto", activation_format="uint4")]
    assert narrow.index("equalize") < narrow.index("smooth-inputs") < narrow.index("quantize-activations")
    assert "smooth-inputs" not in [p.name for p in passes("int8", effort=0)]


@pytest.mark.parametrize(("effort", "again"), [(1, True), (2, False), (3, False)])
def test_blocks_learn_from_the_first_codes_where_activations_are_narrow(effort: int, again: bool) -> None:
    """A second rounding for inputs of 4 bits fits their noise on the samples (docs/decisions/0035)."""
    names = [p.name for p in passes("auto", activation_format="uint4", effort=effort)]
    assert ("requantize-weights" in names) == again
    assert "requantize-weights" in [p.name for p in passes("auto", effort=effort)]
    assert "requantize-weights" in [p.name for p in passes("w4a4", effort=effort)] or effort > 1


def test_notes_give_the_reason() -> None:
    def note(recipe: str, **given: Any) -> str:
        found: str = effort_document(passes(recipe, effort=2, **given), Options(effort=2, **given))["note"]
        return found

    assert note("int8") == "-O2 adds nothing to -O1 here: its weights have 8 bits or more"
    assert note("fp32") == "-O2 adds nothing to -O1 here: it rounds no weights"
    assert note("w4a8", passes="canonicalize") == "-O2 adds nothing to -O1 here: the pipeline is given"
    assert note("int8", weight_format="posit4") == ""


def test_the_last_stage_is_gentle_and_takes_the_options_of_retraining() -> None:
    last = passes("w4a8", effort=3)[-1]
    assert (last.epochs, last.learning_rate, last.loss, last.ranges) == (4, 0.0003, "kl-or-mse", "narrow")
    assert passes("w4a4", effort=3)[-1] == last
    own = passes("w4a8", effort=3, tuning={"epochs": "2"})
    assert [p.name for p in own].count("tune-weights") == 1
    assert (own[-1].epochs, own[-1].loss) == (2, "auto")  # as --tune without an effort


def test_retraining_comes_before_the_tuning_of_scales(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    pipeline = f"{GRAPH_PASSES},{NO_COSTS},quantize-weights{{format=fixp4}},reestimate-batchnorm,tune-scales"
    recipe.write_text(f'name = "own"\nsummary = "s"\npipeline = "{pipeline}"\nmin-sqnr-db = 0.0\n')
    end = ("quantize-weights", "reconstruct-blocks", "reestimate-batchnorm", "tune-weights", "tune-scales")
    assert tuple(p.name for p in passes(str(recipe), effort=3)[-5:]) == end
    tuned = [p.name for p in passes(str(recipe), tuning={"epochs": "1"})]
    assert tuned[-2:] == ["tune-weights", "tune-scales"]
    assert effort_document(passes(str(recipe), effort=3), Options(effort=3))["learned_by"] == [
        "reconstruct-blocks",
        "tune-weights",
        "tune-scales",
    ]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, and samples whose inputs go together."""
    folder = tmp_path_factory.mktemp("net")
    onnx.save(parse_model(NET), folder / "net.onnx")
    rng = np.random.default_rng(3)
    x = rng.normal(size=(128, 6)) @ rng.normal(size=(6, 16)) + 0.1 * rng.normal(size=(128, 16))
    np.savez(folder / "data.npz", x=x.astype(np.float32))
    (folder / "nearest.toml").write_text(f"""name = "nearest"
summary = "nearest weights, which leave much to learn"
pipeline = "{GRAPH_PASSES},{NO_COSTS},quantize-weights{{format=fixp4}},correct-bias"
min-sqnr-db = 0.0
""")
    return folder


def written(folder: Path) -> Mapping[str, bytes]:
    return {n: (folder / n).read_bytes() for n in ("model.onnx", "decisions.toml")}


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", ["w4a8", "nearest.toml"])
def test_learned_codes_from_end_to_end(network: Path, tmp_path: Path, recipe: str) -> None:
    """The command line, twice, from a checkpoint, and from the decisions: the same bytes."""
    chosen = network / recipe if recipe.endswith("toml") else recipe
    words = [
        network / "net.onnx",
        "-t",
        "ort",
        "--recipe",
        chosen,
        "--calibration-data",
        network / "data.npz",
    ]
    runs = {
        "once": ("-O2", "--checkpoint", tmp_path / "state"),
        "resumed": ("-O2", "--checkpoint", tmp_path / "state", "--resume"),
        "again": ("-O2",),
        "replayed": ("-O2", "--decisions", tmp_path / "once" / "decisions.toml"),
    }
    for name, more in runs.items():
        result = command(*words, *more, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
    assert list((tmp_path / "state" / "blocks").glob("*.npz"))
    once = written(tmp_path / "once")
    for name in runs:
        assert written(tmp_path / name) == once, name
    report = lpcompile.load(tmp_path / "once").report
    assert " -O2" in report["created_with"]["command"]
    assert report["effort"] == {"level": 2, "learned_by": ["reconstruct-blocks"], "note": ""}
    row = report["ledger"][-1]
    assert row["step"] == "reconstruct-blocks"
    learned = next(p for p in report["passes"] if p["name"] == "reconstruct-blocks")
    assert row["kept"] == bool(learned["changes"])
    if recipe == "nearest.toml":
        assert row["kept"]
        assert learned["metrics"]["gain_db"] > 1
        assert learned["metrics"]["gain_db"] > 2 * learned["metrics"]["gain_error_db"]
        assert row["gain_db"] > 1


@pytest.mark.thorough
def test_learned_ranges_are_learned_anew_in_a_replay(tmp_path: Path) -> None:
    """Weights are rounded over the ranges before, and learned together with them."""
    activations = "quantize-activations{cost=none,format=uint4,ends=uint8}"
    pipeline = f"{GRAPH_PASSES},{activations},quantize-weights{{format=fixp4}}"
    calls = [{"x": x[None].astype(np.float32)} for x in np.random.default_rng(3).normal(size=(40, 3, 6, 6))]
    given: dict[str, Any] = {
        "calibration": calls,
        "passes": f"{pipeline},reconstruct-blocks{{iterations=40}}",
    }
    first = lpcompile.compile(parse_model(CNN), **given)
    assert "learned" in first.decisions
    assert "start = " in first.decisions
    path = tmp_path / "decisions.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(parse_model(CNN), calibration=calls, decisions=path)
    assert again.decisions == first.decisions
    assert again.model.SerializeToString() == first.model.SerializeToString()
    path.write_text(first.decisions.replace("start = ", "start = -"), "utf-8")
    with pytest.raises(DecisionsError, match=r"start -.* is no positive number"):
        lpcompile.compile(parse_model(CNN), calibration=calls, decisions=path)


def test_everything_at_once(network: Path) -> None:
    """No output gives classes to the eye of the compiler: the loss of the last stage is another then."""
    labels: list[str] = []
    found = lpcompile.compile(
        network / "net.onnx",
        calibration=str(network / "data.npz"),
        recipe="w4a8",
        effort=3,
        progress=lambda step: labels.append(step.what),
    )
    steps = [row["step"] for row in found.report["ledger"]]
    assert steps[-2:] == ["reconstruct-blocks", "tune-weights"]
    assert any(w.startswith("reconstructing blocks, about ") for w in labels)
    assert any(w.startswith("retraining, about ") for w in labels)
    assert not [w for w in found.report["warnings"] if "-O" in w]


def test_a_network_without_gradients_is_left_alone_where_retraining_is_not_required() -> None:
    made = quantized("""m (float[2,4] x) => (float[2,4] y) <float[4,4] w, float[4] b> {
        h = Gemm (x, w, b)  k = Constant <value = int64[3] {2, 2, 2}> ()  m = Reshape (h, k)  d = Det (m)
        e = Constant <value = int64[2] {2, 1}> ()  c = Reshape (d, e)  y = Add (h, c) }""")
    with pytest.raises(GradientError):
        made.rerun("tune-weights{epochs=1}")
    report = made.rerun("tune-weights{epochs=1,required=false}")["tune-weights"]
    assert not report.changes
    assert all("it cannot be retrained" in s.reason for s in report.skips)
    assert any("weights are not retrained: " in w for w in made.context.warnings)


def test_times_are_shown_as_guesses() -> None:
    shown = [expected_time.shown(s) for s in (0.2, 31, 89.9, 90, 200, 5399, 5400, 9000)]
    assert shown == ["10 s", "40 s", "90 s", "2 min", "3 min", "90 min", "2 h", "2 h"]


def test_what_is_said_of_an_effort_is_printed(network: Path) -> None:
    words = ["-t", "ort", "--recipe", "int8", "--calibration-data", network / "data.npz", "-O2", "--dry-run"]
    result = command(network / "net.onnx", *words)
    assert "effort    -O2 adds nothing to -O1 here: its weights have 8 bits or more" in result.stdout
    assert result.stderr == ""
    assert "3: retrain, too" in " ".join(command("compile", "--help").stdout.split())


def test_the_pass_is_known() -> None:
    assert pass_class("reconstruct-blocks").configured({}).text == "reconstruct-blocks"


@pytest.mark.thorough
def test_retraining_that_an_effort_asked_for_is_undone_where_it_loses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = quantized(CNN.replace("float[N,3,6,6]", "float[2,3,6,6]").replace("float[N,5]", "float[2,5]"),
                     f"{NO_COSTS},quantize-weights{{format=fixp4}},correct-bias", calls=16)  # fmt: skip
    before = made.graph.plan

    def worse(noise: object, other: object) -> tuple[float, float]:
        return -1.0, 0.1

    monkeypatch.setattr("lpcompile.passes.keep_if_better.gain_db", worse)
    report = made.rerun("tune-weights{epochs=20,learning-rate=0.01,required=false}")["tune-weights"]
    assert made.graph.plan is before
    assert not report.changes
    assert [s.reason for s in report.skips] == ["the network lost 1.00 dB on the samples: codes stay"]
    assert made.rerun("tune-weights{epochs=20,learning-rate=0.01}")["tune-weights"].changes  # as asked
