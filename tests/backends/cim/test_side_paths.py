"""Side paths on the hp unit: bit for bit the integer graph in ONNX Runtime and in numpy, energies of their own."""

from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.backends.cim.machine import machine_text
from lpcompile.errors import TargetError
from lpcompile.report.page import page
from lpcompile.report.text import summary
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.backends.cim.network_checks import assert_equal, check, compiled, program_of
from tests.backends.cim.random_machines import with_values
from tests.support import parse_model, random_feeds, run_model

CNN = """net (float[N,8,7,7] x) => (float[N,5] y)
    <float[24,8,3,3] w1, float[24] b1, float[16,24,1,1] w2, float[16,4,3,3] w3, float[24,16,3,3] w4, float[24,5] w5> {
    [a] a = Conv <pads = [1, 0, 1, 2], strides = [2, 1]> (x, w1, b1)
    ra = Relu (a)
    [b] b = Conv (ra, w2)
    [grouped] c = Conv <group = 4> (b, w3)
    s = Sigmoid (c)
    [d] d = Conv <dilations = [2, 1], pads = [2, 1, 2, 1]> (s, w4)
    rd = Relu (d)
    g = GlobalAveragePool (rd)
    f = Flatten (g)
    [e] y = Gemm (f, w5) }"""
TRANSFORMER = """net (float[N,6,32] x) => (float[N,6,9] y)
    <float[32,40] w1, float[40] b1, float[40,32] w2, float[32,9] w3> {
    [a] a = MatMul (x, w1)
    c = Add (a, b1)
    r = Relu (c)
    [b] b = MatMul (r, w2)
    s = Add (b, x)
    [e] y = MatMul (s, w3) }"""
SERIES = """net (float[N,6,30] x) => (float[N,4,14] y) <float[20,6,5] w1, float[4,20,1] w2> {
    [a] a = Conv <strides = [2], pads = [1, 1]> (x, w1)
    r = Relu (a)
    [b] y = Conv (r, w2) }"""
PATHS = "insert-lora{rank=3,keep=always,most-macs=9}"
FOLDS = "canonicalize,fold-constants,fold-batchnorm"
PIPELINE = f"{FOLDS},quantize-activations,quantize-weights{{format=fixp4}},{PATHS},correct-bias"
MACHINES = (
    "npp-bitplane-sram",
    "reference",
    with_values(machine_text("reference"), core__local_kib=4),
)


def made(text: str, folder: Path, machine: str = "reference", passes: str = PIPELINE) -> lpcompile.Artefacts:
    model = parse_model(text)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    return compiled(model, calls, machine, folder, passes=passes)


@pytest.mark.sweep
@pytest.mark.parametrize("text", [SERIES, TRANSFORMER, CNN])
@pytest.mark.parametrize("machine", MACHINES, ids=["npp", "reference", "small"])
def test_the_program_equals_the_integer_graph(text: str, machine: str, tmp_path: Path) -> None:
    found = made(text, tmp_path, machine)
    ranks = {r["name"]: r["rank"] for r in found.report["layers"]}
    assert {n for n, r in ranks.items() if r} == set(ranks) - {"grouped"}
    feeds = random_feeds(found.model, seed=77)
    wanted = run_model(found.model, feeds)
    assert_equal(evaluate(found.model, feeds), wanted)
    assert not any(c.different for c in check_layers(found.model, feeds))
    assert check(found, machine, feeds, planes=True, interpreter=True)
    assert found.report["verification"]["bit_exact_sim"]


@pytest.mark.thorough
@pytest.mark.parametrize("text", [CNN, TRANSFORMER])
def test_the_graph_computes_what_the_plan_says(text: str, tmp_path: Path) -> None:
    """Real weights of the whole plan, paths in: a path that is left out, or added twice, is far off."""
    with_paths = made(text, tmp_path)
    without = made(text, tmp_path, passes=PIPELINE.replace(f"{PATHS},", ""))
    model = parse_model(text)
    feeds = random_feeds(model, seed=78)
    real = run_model(model, feeds)["y"].astype(np.float64)
    near, far = (np.square(run_model(m.model, feeds)["y"] - real).sum() for m in (with_paths, without))
    assert near < 0.7 * far


@pytest.mark.thorough
def test_energies_of_main_and_side_paths_stand_apart(tmp_path: Path) -> None:
    found = made(CNN, tmp_path, "npp-bitplane-sram")
    report = found.report
    energy, layers = report["energy"], {r["name"]: r for r in report["layers"]}
    macs = {"a": (24, 72), "b": (16, 24), "d": (24, 144), "e": (5, 24)}  # outputs, inputs
    expected = sum(3 * (c + k) * layers[n]["macs"] // (c * k) for n, (c, k) in macs.items())
    assert energy["side_path_macs"] == expected
    assert energy["side_path_pj"] > 0
    assert energy["mac_only_pj"] > 0
    assert sum(energy["components"].values()) == pytest.approx(report["totals"]["energy_pj"], rel=1e-9)
    scopes, ops = energy["tops_per_w"], energy["conventions"]["ops_per_mac"]
    both = energy["mac_only_pj"] + energy["side_path_pj"]
    assert scopes["with_side_paths"] == pytest.approx(ops * energy["main_path_macs"] / both)
    assert scopes["mac_only"] > scopes["with_side_paths"]
    for name in macs:
        assert energy["by_layer"][name]["hp unit"] > 0
    bare = made(CNN, tmp_path, "npp-bitplane-sram", PIPELINE.replace(f"{PATHS},", ""))
    assert "hp unit" not in bare.report["energy"]["by_layer"]["a"]
    assert bare.report["energy"]["side_path_pj"] == 0
    assert "with side paths" not in summary(bare.report, [tmp_path / "model.onnx"])
    assert "with side paths" in summary(report, [tmp_path / "model.onnx"])
    assert "Main and side paths" in page(report)


def test_factors_are_stored_once_and_counted(tmp_path: Path) -> None:
    found = made(SERIES, tmp_path)
    stored = {i.name: i for i in found.model.graph.initializer}
    for name, (c, k) in {"a": (20, 30), "b": (4, 20)}.items():
        sizes = {role: np.prod(stored[f"{name}/{role}"].dims) for role in ("side_a", "side_b")}
        assert sizes == {"side_a": 3 * k, "side_b": 3 * c}
    assert program_of(found).consts.count(stored["a/side_b"].raw_data) <= 1


@pytest.mark.thorough
def test_a_replay_is_the_same(tmp_path: Path) -> None:
    model = parse_model(SERIES)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    first = lpcompile.compile(model, target="cim", calibration=calls, recipe="w4a8", rank=2)
    assert 'side_lowering = "separate"' in first.decisions
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(model, target="cim", calibration=calls, decisions=file)
    assert again.files == first.files
    assert again.model.SerializeToString() == first.model.SerializeToString()
    file.write_text(first.decisions.replace('"separate"', '"merged"'), "utf-8")
    with pytest.raises(TargetError, match="target 'cim' has no lowering 'merged' of side paths"):
        lpcompile.compile(model, target="cim", calibration=calls, decisions=file)


def test_paths_and_biases_are_trained_for_a_machine_as_well(tmp_path: Path) -> None:
    train = "tune-factors{epochs=3,batch=4,learning-rate=0.3}"
    start = PIPELINE.replace("rank=3", "rank=3,method=svd")
    model = parse_model(SERIES)
    calls = [random_feeds(model, seed=i) for i in range(24)]
    found = lpcompile.compile(model, target="cim", calibration=calls, passes=f"{start},{train}")
    (entry,) = [p for p in found.report["passes"] if p["name"] == "tune-factors"]
    assert entry["metrics"]["spared_gain_db"] > 0
    assert found.report["verification"]["bit_exact_sim"]


@pytest.mark.parametrize("lowering", ["merged", "concat-in"])
def test_other_forms_of_paths_are_refused(tmp_path: Path, lowering: str) -> None:
    with pytest.raises(TargetError, match=f"no lowering '{lowering}' of side paths") as told:
        made(SERIES, tmp_path, passes=PIPELINE.replace("rank=3", f"rank=3,lowering={lowering}"))
    assert told.value.hint == "it has: separate"
