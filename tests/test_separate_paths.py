"""Side paths that run beside their layers in ONNX Runtime: bit for bit numpy's, and other factors in their place."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import lpcompile
from lpcompile.cli import main
from lpcompile.errors import InputError, TargetError
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from lpcompile.runtime.side_factors import read_factors, side_factors, swap_factors, written_factors
from tests.support import Array, parse_model, random_feeds, run_model

# a layer that gives codes, one whose range is found at run time, a Gemm and a MatMul that give floats
NET = """m (float[5,24] x) => (float[5,9] y, float[1,7] z)
<float[24,32] w1, float[32] b1, float[32,24] w2, float[24,9] w3, float[120,7] w4, float[7] b4,
 int64[2] flat = {1, -1}> {
    [codes] c = Gemm (x, w1, b1)
    r = Relu (c)
    [floats] d = MatMul (r, w2)
    e = Erf (d)
    [last] y = MatMul (e, w3)
    f = Reshape (e, flat)
    [gemm] z = Gemm (f, w4, b4)
}"""
FOLDS = "canonicalize,fold-constants,fold-batchnorm"
STATIC = f"{FOLDS},quantize-activations{{cost=none,matmul=static}}"
DYNAMIC = f"{FOLDS},quantize-activations{{cost=none,matmul=dynamic}}"
WEIGHTS = "quantize-weights{format=fixp4,granularity=group,group-size=8}"
PATHS = "insert-lora{rank=3,keep=always,most-macs=9,lowering=separate}"


def compiled(head: str = STATIC, paths: str = PATHS, **options: object) -> lpcompile.Artefacts:
    model = parse_model(NET)
    calls = [random_feeds(model, seed=i) for i in range(8)]
    given = {"passes": f"{head},{WEIGHTS},{paths}", "calibration": calls, "target": "ort", **options}
    return lpcompile.compile(model, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> lpcompile.Artefacts:
    return compiled()


def ranks(found: lpcompile.Artefacts) -> dict[str, int]:
    return {r["name"]: r["rank"] for r in found.report["layers"]}


@pytest.mark.thorough
@pytest.mark.parametrize("head", [STATIC, DYNAMIC])
def test_the_runtime_equals_numpy_bit_for_bit(head: str) -> None:
    found = compiled(head)
    with_paths = {name for name, rank in ranks(found).items() if rank}
    assert {"floats", "last"} <= with_paths
    feeds = random_feeds(found.model, seed=31)
    checks = check_layers(found.model, feeds)
    assert any(c.op.startswith("Dynamic") and "_path" in c.op for c in checks) is (head == DYNAMIC)
    assert {c.name for c in checks if "_path" in c.op} == with_paths
    assert not [c for c in checks if "_path" in c.op and c.different]
    wanted = run_model(found.model, feeds)
    for name, array in evaluate(found.model, feeds).items():
        np.testing.assert_allclose(wanted[name], array, rtol=1e-4, atol=1e-4)
    inlined = compiled(head, emit="standard")
    for name, array in run_model(inlined.model, feeds).items():
        np.testing.assert_array_equal(wanted[name], array)


def test_layers_that_give_codes_are_skipped_and_the_path_repairs(made: lpcompile.Artefacts) -> None:
    (entry,) = [p for p in made.report["passes"] if p["name"] == "insert-lora"]
    skipped = {s["node"]: s["reason"] for s in entry["skips"]}
    assert skipped == {
        n: "it gives 8-bit codes, whose sums a separate path cannot add to"
        for n, r in ranks(made).items()
        if not r
    }
    without = compiled(paths=PATHS.replace("rank=3", "rank=1,method=svd"))
    model = parse_model(NET)
    feeds = random_feeds(model, seed=32)
    real = run_model(model, feeds)["y"].astype(np.float64)
    errors = [np.square(run_model(m.model, feeds)["y"] - real).sum() for m in (made, without)]
    assert errors[0] < errors[1]


def test_what_is_stored_and_counted(made: lpcompile.Artefacts) -> None:
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in made.model.graph.initializer}
    layers = {r["name"]: r for r in made.report["layers"]}
    (call,) = [n for n in made.model.graph.node if n.name == "last"]
    a, b, *numbers = (stored[name] for name in call.input[-5:])
    assert a.dtype == b.dtype == np.int8
    assert (a.shape, b.shape) == ((24, 3), (3, 9))
    codes = sum(stored[name].nbytes for name in call.input[3:-6])
    assert layers["last"]["weight_bytes"] == codes + sum(v.nbytes for v in (a, b, *numbers))
    account = {r["name"]: r["acev2"] for r in compiled(paths="correct-bias").report["layers"]}
    assert layers["last"]["acev2"] - account["last"] > 5 * 3 * (9 + 24) * 64, "8 by 8 bits and more"


def test_qdq_is_refused() -> None:
    with pytest.raises(TargetError, match="QDQ form has no side paths that stay apart"):
        compiled(emit="qdq")


def test_a_replay_is_the_same_file(made: lpcompile.Artefacts, tmp_path: Path) -> None:
    assert 'side_lowering = "separate"' in made.decisions
    file = tmp_path / "decisions.toml"
    file.write_text(made.decisions, "utf-8")
    again = compiled(passes=None, decisions=file)
    assert again.model.SerializeToString() == made.model.SerializeToString()


# other factors


def factors_for(name: str, shape: tuple[int, int], rank: int) -> dict[str, tuple[Array, Array]]:
    rng = np.random.default_rng(7)
    b, a = rng.normal(0, 0.2, (shape[0], rank)), rng.normal(0, 0.2, (rank, shape[1]))
    return {name: (b.astype(np.float32), a.astype(np.float32))}


@pytest.mark.sweep
@pytest.mark.parametrize("head", [STATIC, DYNAMIC])
@pytest.mark.parametrize("rank", [1, 5])
def test_swapped_factors_are_those_that_run(head: str, rank: int) -> None:
    """Against a float model with the weights of the codes and the new product: 8 bits of factors and inputs apart."""
    found = compiled(head)
    new = factors_for("last", (9, 24), rank)
    swapped = swap_factors(found.model, new)
    feeds = random_feeds(found.model, seed=33)
    assert not [c for c in check_layers(swapped, feeds) if "_path" in c.op and c.different]
    nothing = swap_factors(
        found.model, {"last": (np.zeros((9, 1), np.float32), np.zeros((1, 24), np.float32))}
    )
    outputs = [run_model(m, feeds)["y"].astype(np.float64) for m in (swapped, nothing)]
    b, a = new["last"]
    inner = _with_output(found.model, "e")
    e = run_model(inner, feeds)["e"].astype(np.float64)
    wanted = e @ (b.astype(np.float64) @ a).T
    error = np.linalg.norm(outputs[0] - outputs[1] - wanted) / np.linalg.norm(wanted)
    assert error < 0.02
    kept = side_factors(swapped)
    np.testing.assert_allclose(kept["last"][0] @ kept["last"][1], b @ a, atol=0.02 * np.abs(b @ a).max())
    assert len(kept["last"][1]) == rank
    before = side_factors(found.model)
    np.testing.assert_array_equal(kept["floats"][0], before["floats"][0])
    old = {i.name: i.SerializeToString() for i in found.model.graph.initializer}
    now = {i.name: i.SerializeToString() for i in swapped.graph.initializer}
    changed = [n for n in now if old.get(n) != now[n]]
    assert changed == [f"last/path_{role}" for role in ("a", "b", "m", "scale", "high")]
    assert len(old) - 1 <= len(now) <= len(old) + 1


def _with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return shown


def test_own_factors_come_back(made: lpcompile.Artefacts) -> None:
    own = side_factors(made.model)
    again = side_factors(swap_factors(made.model, own))
    for name, (b, a) in own.items():
        product = b @ a
        np.testing.assert_allclose(
            again[name][0] @ again[name][1], product, atol=0.02 * np.abs(product).max()
        )


@pytest.mark.parametrize(
    ("name", "b", "a", "message"),
    [
        ("codes", (32, 2), (2, 24), "layer 'codes' has no side path that stays apart"),
        ("last", (9, 2), (3, 24), r"factors of shape \(9, 2\) and \(3, 24\) for 9 outputs and 24 inputs"),
        ("last", (8, 2), (2, 24), "for 9 outputs and 24 inputs"),
        ("last", (9, 0), (0, 24), "for 9 outputs and 24 inputs"),
    ],
)
def test_factors_that_do_not_fit(
    made: lpcompile.Artefacts, name: str, b: tuple[int, int], a: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        swap_factors(made.model, {name: (np.ones(b, np.float32), np.ones(a, np.float32))})


def test_factors_that_are_no_numbers(made: lpcompile.Artefacts) -> None:
    b, a = factors_for("last", (9, 24), 2)["last"]
    with pytest.raises(InputError, match="NaN or infinity"):
        swap_factors(made.model, {"last": (b * np.float32(np.nan), a)})
    with pytest.raises(InputError, match="too small or too large"):
        swap_factors(made.model, {"last": (b * np.float32(1e30), a)})


def test_models_without_paths() -> None:
    plain = compiled(paths="correct-bias")
    with pytest.raises(InputError, match="no layer of the model has a side path that stays apart"):
        side_factors(plain.model)


def test_files_of_factors() -> None:
    given = factors_for("a/b", (3, 4), 2)
    arrays = written_factors(given)
    assert set(arrays) == {"a/b/a", "a/b/b"}
    np.testing.assert_array_equal(read_factors(arrays)["a/b"][0], given["a/b"][0])
    for wrong in ({"a/b/b": arrays["a/b/b"]}, {}, {"a/b/c": arrays["a/b/b"]}):
        with pytest.raises(InputError, match="factors are pairs of arrays 'LAYER/b' and 'LAYER/a'"):
            read_factors(wrong)


def test_the_command_line(made: lpcompile.Artefacts, tmp_path: Path) -> None:
    model, saved, new = (str(tmp_path / n) for n in ("model.onnx", "own.npz", "new.onnx"))
    onnx.save(made.model, model)

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["factors", *words])
        assert result.exit_code == 0, result.output
        return result.output

    listed = json.loads(run(model, "--json", "--save", saved))
    assert {r["layer"]: r["rank"] for r in listed["layers"]} == {n: r for n, r in ranks(made).items() if r}
    other = str(tmp_path / "other.npz")
    np.savez(other, **written_factors(factors_for("last", (9, 24), 4)))  # type: ignore[arg-type]
    assert "last" in run(model, "--swap", other, "--output", new)
    swapped = onnx.load(new)
    assert len(side_factors(swapped)["last"][1]) == 4
    expected = swap_factors(made.model, factors_for("last", (9, 24), 4))
    assert swapped.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    for words in (("--swap", other), (model, "--swap", other, "--output", new), (model, "--save", saved)):
        assert CliRunner().invoke(main, ["factors", *words]).exit_code != 0
    assert lpcompile.swap_factors is swap_factors
    assert lpcompile.side_factors is side_factors
