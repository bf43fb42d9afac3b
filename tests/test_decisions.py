"""decisions.toml: written, edited by hand, replayed, refused."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpcompile
from lpcompile.decisions import Decisions, read_decisions, write_decisions
from lpcompile.errors import DecisionsError
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, RequantPlan, WeightPlan
from lpcompile.quant.dual_rounding import ROUNDINGS, SCALE_RULES
from tests.networks import compiled_toy, toy, toy_calls, without_costs

TOY = "residual_add"
LAYER = '[layers."Conv_0"]'


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> str:
    """The decisions of a small residual block: Conv_0, Conv_2 and the activations around them."""
    without_costs(monkeypatch)
    return compiled_toy(TOY, "w4a8").decisions


def replayed(text: str, folder: Path) -> lpcompile.Artefacts:
    file = folder / "decisions.toml"
    file.write_text(text, "utf-8")
    return lpcompile.compile(toy(TOY), calibration=toy_calls(TOY), decisions=file)


def edited(text: str, heading: str, key: str, value: str) -> str:
    """The text with one key of one table set anew."""
    before, found, rest = text.partition(f"{heading}\n")
    assert found
    table, sep, after = rest.partition("\n\n")
    lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in table.splitlines()]
    assert f"{key} = {value}" in lines
    return before + found + "\n".join(lines) + sep + after


def without_table(text: str, heading: str) -> str:
    before, found, rest = text.partition(f"{heading}\n")
    assert found
    return before + rest.partition("\n\n")[2]


def test_it_is_made_for_people(text: str) -> None:
    data = tomllib.loads(text)
    assert text.startswith("# lpcompile decisions")
    assert set(data) == {"schema", "made_for", "versions", "layers", "activations", "elementwise", "unedited"}
    assert len(data["made_for"]["model_sha256"]) == len(data["made_for"]["data_sha256"]) == 64
    layer = data["layers"]["Conv_0"]
    assert (layer["format"], layer["kernel"], layer["granularity"]) == ("fixp4", "integer", "group32")
    assert all(a["scale"] > 0 for a in data["activations"].values())


def test_an_edited_format(text: str, tmp_path: Path) -> None:
    changed = edited(text, LAYER, "format", '"posit4"')
    found = replayed(edited(changed, LAYER, "granularity", '"channel"'), tmp_path)
    rows = {r["name"]: (r["weight_format"], r["weight_granularity"]) for r in found.report["layers"]}
    assert rows == {"Conv_0": ("posit4", "channel"), "Conv_2": ("fixp4", "group32")}
    assert any("'Conv_0': its codes are not those" in w for w in found.report["warnings"])
    assert found.report["quality"]["sqnr_db_output"] > 10


def test_an_edited_kernel(text: str, tmp_path: Path) -> None:
    found = replayed(edited(text, LAYER, "kernel", '"weight-only"'), tmp_path)
    rows = {r["name"]: r["activation_format"] for r in found.report["layers"]}
    assert rows == {"Conv_0": "float32", "Conv_2": "uint8"}
    found = replayed(edited(text, LAYER, "kernel", '"float"'), tmp_path)
    assert {r["name"]: r["weight_format"] for r in found.report["layers"]}["Conv_0"] == "float32"


def test_an_edited_scale_is_taken(text: str, tmp_path: Path) -> None:
    data = tomllib.loads(text)
    name, plan = next(iter(data["activations"].items()))
    again_made = replayed(edited(text, f'[activations."{name}"]', "scale", repr(plan["scale"] * 4)), tmp_path)
    again = tomllib.loads(again_made.decisions)["activations"][name]
    assert again["scale"] == pytest.approx(plan["scale"] * 4)
    assert (
        again_made.report["quality"]["sqnr_db_output"]
        < compiled_toy(TOY, "w4a8").report["quality"]["sqnr_db_output"]
    )


def reasons_of(found: lpcompile.Artefacts) -> dict[str, str]:
    return {r["name"]: r["reason"] for r in found.report["layers"]}


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("key", "value"), [("kernel", '"float"'), ("format", '"posit4"'), ("granularity", '"channel"')]
)
def test_an_edited_layer_gives_the_user_as_its_reason(
    key: str, value: str, text: str, tmp_path: Path
) -> None:
    before = reasons_of(compiled_toy(TOY, "w4a8"))
    found = replayed(edited(text, LAYER, key, value), tmp_path)
    assert reasons_of(found) == before | {"Conv_0": "written by the user"}
    assert tomllib.loads(found.decisions)["layers"]["Conv_0"]["reason"] == "written by the user"
    assert replayed(found.decisions, tmp_path).decisions == found.decisions


def test_an_edited_activation_gives_the_user_as_its_reason(text: str, tmp_path: Path) -> None:
    name = next(iter(tomllib.loads(text)["activations"]))
    found = replayed(edited(text, f'[activations."{name}"]', "zero_point", "3"), tmp_path)
    reasons = {k: a["reason"] for k, a in tomllib.loads(found.decisions)["activations"].items()}
    assert [k for k, reason in reasons.items() if reason == "written by the user"] == [name]


@pytest.mark.thorough
def test_reasons_that_are_not_the_users(text: str, tmp_path: Path) -> None:
    """An entry that was not edited, a reason that was, and a file whose marks are gone."""
    before = reasons_of(compiled_toy(TOY, "w4a8"))
    assert reasons_of(replayed(text, tmp_path)) == before
    own = edited(edited(text, LAYER, "kernel", '"float"'), LAYER, "reason", '"too small to matter"')
    assert reasons_of(replayed(own, tmp_path))["Conv_0"] == "too small to matter"
    unmarked = edited(text, LAYER, "kernel", '"float"').partition("\n# by these")[0] + "\n"
    assert reasons_of(replayed(unmarked, tmp_path)) == before
    added = own.replace('"Conv_0" = ', '"Conv_7" = ').replace('reason = "too small to matter"', 'reason = ""')
    assert reasons_of(replayed(added, tmp_path))["Conv_0"] == "written by the user"


def test_an_edited_multiplier_gives_the_user_as_its_reason(tmp_path: Path) -> None:
    held = RequantPlan("dyadic-8", "the recipe")
    plan = QuantPlan(requants={"norm": held, "other": held})
    file = tmp_path / "decisions.toml"
    file.write_text(write_decisions(Decisions({}, {}, plan)).replace('"dyadic-8"', '"dyadic-4"', 1), "utf-8")
    read = read_decisions(file).plan.requants
    assert {name: (r.multiplier, r.reason) for name, r in read.items()} == {
        "norm": ("dyadic-4", "written by the user"),
        "other": ("dyadic-8", "the recipe"),
    }


def test_a_layer_that_is_left_out_stays_float(text: str, tmp_path: Path) -> None:
    found = replayed(without_table(text, LAYER), tmp_path)
    rows = {r["name"]: r for r in found.report["layers"]}
    assert rows["Conv_0"]["weight_format"] == "float32"
    assert rows["Conv_0"]["reason"] == "not in the decisions"
    assert any("'Conv_0' is not in the decisions" in w for w in found.report["warnings"])


def with_rank(text: str, rank: str) -> str:
    return text.replace(LAYER, f"{LAYER}\nrank = {rank}")


def test_a_side_path_is_asked_for_by_hand(text: str, tmp_path: Path) -> None:
    found = replayed(with_rank(text, "2"), tmp_path)
    assert {n["name"]: n["rank"] for n in found.report["layers"]}["Conv_0"] == 2
    assert 'rank = 2\nside_path = "qera"' in found.decisions
    eight = edited(edited(with_rank(text, "2"), LAYER, "format", '"int8"'), LAYER, "granularity", '"channel"')
    (layer,) = (n for n in replayed(eight, tmp_path).report["layers"] if n["name"] == "Conv_0")
    assert layer["rank"] == 0
    assert layer["reason"].endswith("no side path: int8 has little to repair")


def renamed(text: str) -> str:
    return text.replace(LAYER, '[layers."Conv_9"]')


def elementwise(name: str) -> Callable[[str], str]:
    return lambda text: text.replace(
        "[elementwise]\n", f'[elementwise]\n"{name}" = "between quantised layers"\n'
    )


def without_activation(text: str) -> str:
    return without_table(text, '[activations."x"]')


@pytest.mark.parametrize(
    ("edit", "message", "hint"),
    [
        (elementwise("Conv_0"), "'Conv_0' stands under [elementwise] and is a layer", "take the line out"),
        (
            elementwise("Relu_9"),
            "'Relu_9' stands under [elementwise] and is not in the model",
            "take the line out",
        ),
        (renamed, "there is no layer 'Conv_9' in the model", "model it was made for"),
        (lambda t: t.replace('[activations."x"]', '[activations."xx"]'), "no tensor 'xx'", "made for"),
        (
            without_activation,
            "'Conv_0' runs on integers, but its input has no entry",
            'add [activations."x"]',
        ),
        (lambda t: edited(t, LAYER, "format", '"posit44"'), "no number format", "posit4"),
        (lambda t: edited(t, LAYER, "kernel", '"fast"'), "no kernel 'fast'", "integer, float-out, dynamic"),
        (lambda t: edited(t, LAYER, "kernel", '"dynamic"'), "a Conv has no dynamic kernel", "weight-only"),
        (lambda t: edited(t, LAYER, "granularity", '"groups"'), "no granularity 'groups'", "group32"),
        (lambda t: edited(t, LAYER, "scale_rule", '"guess"'), "no scale_rule 'guess'", "absmax"),
        (lambda t: edited(t, LAYER, "scale_format", '"int3"'), "no scale_format 'int3'", "ufloat8_e4m4"),
        (lambda t: edited(t, LAYER, "rounding", '"up"'), "no rounding 'up'", "nearest"),
        (lambda t: with_rank(t, "-1"), "rank -1 is no rank", "0 to 512"),
        (lambda t: with_rank(t, "true"), "rank True is no rank", "0 to 512"),
        (lambda t: with_rank(t, '2\nside_path = "pca"'), "no side_path 'pca'", "qera"),
        (
            lambda t: t.replace(LAYER, LAYER + "\nbits = 3"),
            "unknown key 'bits' in layer 'Conv_0'",
            "keys are",
        ),
        (lambda t: edited(t, '[activations."x"]', "scale", "-1.0"), "scale -1.0 is no positive", "edit"),
        (lambda t: edited(t, '[activations."x"]', "scale", "nan"), "scale nan is no positive", "edit"),
        (lambda t: edited(t, '[activations."x"]', "scale", "1e-60"), "is no positive number", "edit"),
        (lambda t: edited(t, '[activations."x"]', "zero_point", "256"), "zero point 256", "codes are 0..255"),
        (lambda t: edited(t, '[activations."x"]', "zero_point", "1.5"), "zero point 1.5", "codes are 0..255"),
        (lambda t: edited(t, '[activations."x"]', "format", '"int8"'), "no format 'int8'", "uint8 or uint4"),
        (lambda t: t.replace("schema = 1", "schema = 7"), "schema 7, not 1", "edit"),
        (lambda t: t + "\n[extra]\n", "unknown key 'extra' in the file", "keys are"),
        (lambda t: t[: len(t) // 2] + "[[", "not TOML", "edit"),
        (lambda t: "layers = 3\nschema = 1", "'layers' is no table", "edit"),
        (lambda t: "schema = 1\nlayers.a = 3", "'a' is no table", "edit"),
        (lambda t: t + "\n[unedited.norms]\n", "'unedited.norms' is no table of marks", "or out"),
        (lambda t: "[" * 100_000, "not TOML", "edit"),
    ],
)
def test_what_means_nothing_is_refused(
    edit: Callable[[str], str], message: str, hint: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(DecisionsError) as caught:
        replayed(edit(text), tmp_path)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DecisionsError, match="cannot read the decisions"):
        read_decisions(tmp_path / "none.toml")
    with pytest.raises(DecisionsError, match="cannot read the decisions"):
        read_decisions(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DecisionsError, match="it is not text"):
        read_decisions(tmp_path / "bytes.toml")


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
scales = st.floats(2**-20, 2**20, width=32)
layers = st.builds(
    LayerPlan,
    kernel=st.sampled_from([k for k in Kernel if k is not Kernel.FLOAT8]),
    weight=st.builds(
        WeightPlan,
        format=st.sampled_from(["int8", "posit4", "nf4"]),
        granularity=st.sampled_from(["channel", "group32"]),
        codebooks=st.sampled_from([(), ("00" * 16, "7f" * 16)]),
    ),
    reason=names,
)
float8_layers = st.builds(
    LayerPlan,
    kernel=st.sampled_from([Kernel.FLOAT8, Kernel.WEIGHT_ONLY]),
    weight=st.builds(
        WeightPlan,
        format=st.just("int4"),
        granularity=st.sampled_from(["group32", "group100"]),
        scale_rule=st.sampled_from(SCALE_RULES),
        scale_format=st.just("bfloat16"),
        rounding=st.sampled_from(ROUNDINGS),
    ),
    reason=names,
)
float8_activations = st.builds(
    ActivationPlan,
    format=st.just("float8_e4m3fn"),
    scale=st.integers(-60, 60).map(lambda e: 2.0**e),
    zero_point=st.just(0),
    tie_group=names,
)
activations = st.builds(
    ActivationPlan,
    format=st.just("uint8"),
    scale=scales,
    zero_point=st.integers(0, 255),
    tie_group=names,
    reason=names,
)
plans = st.builds(
    QuantPlan,
    layers=st.dictionaries(names, layers | float8_layers, max_size=4),
    activations=st.dictionaries(names, activations | float8_activations, max_size=4),
    elementwise=st.dictionaries(names, names, max_size=3),
)


@pytest.mark.thorough
@given(plan=plans, sha=names)
def test_what_is_written_is_read_back(plan: QuantPlan, sha: str, tmp_path_factory: Any) -> None:
    """Any names, any float32 scale; the codes themselves are rounded again."""
    file = tmp_path_factory.mktemp("decisions") / "decisions.toml"
    written = write_decisions(Decisions({"model_sha256": sha}, {"numpy": "2"}, plan))
    file.write_bytes(written.encode())
    read = read_decisions(file)
    assert read.plan == plan
    assert read.header["model_sha256"] == sha
    assert write_decisions(Decisions(read.header, read.versions, read.plan)) == written
