"""Side paths that one product reads beside its inputs: bit for bit numpy's, and other factors in their place."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import lpcompile
from lpcompile.cli import main
from lpcompile.errors import InputError, TargetError
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from lpcompile.runtime.side_factors import side_factors, swap_factors, written_factors
from tests.exact_sums import as_users_have_them
from tests.support import Array, parse_model, random_feeds, run_model
from tests.test_separate_paths import DYNAMIC, NET, STATIC, WEIGHTS, compiled, factors_for, ranks

PATHS = "insert-lora{rank=3,keep=always,most-macs=9,lowering=concat-in}"


@pytest.fixture(scope="module")
def made() -> lpcompile.Artefacts:
    return compiled(paths=PATHS)


def calls() -> list[dict[str, Array]]:
    return [random_feeds(parse_model(NET), seed=i) for i in range(8)]


@pytest.mark.parametrize("head", [STATIC, DYNAMIC])
def test_the_runtime_equals_numpy_bit_for_bit(head: str) -> None:
    """Codes that come out of a layer, floats, and inputs whose range and zero point are found at run time."""
    found = compiled(head, PATHS)
    assert all(ranks(found).values())
    feeds = random_feeds(found.model, seed=31)
    checks = check_layers(found.model, feeds)
    assert {c.name for c in checks if c.op.endswith("_concat")} == ranks(found).keys()
    assert any(c.op.startswith("Dynamic") for c in checks) is (head == DYNAMIC)
    assert not [c for c in checks if c.different]
    wanted = run_model(found.model, feeds)
    for name, array in evaluate(found.model, feeds).items():
        np.testing.assert_allclose(wanted[name], array, rtol=1e-4, atol=1e-4)
    inlined = compiled(head, PATHS, emit="standard")
    for name, array in run_model(inlined.model, feeds).items():
        np.testing.assert_array_equal(wanted[name], array)


def test_the_weights_of_both_are_joined_when_the_model_is_loaded(
    made: lpcompile.Artefacts, tmp_path: Path
) -> None:
    """What is left is a product for h, one Concat of codes and the product of the layer, each of 8 bits."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made.model.SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    stored = {t.name: t for t in optimised.initializer}
    ops = [n.op_type for n in optimised.node]
    assert ops.count("Concat") == len(ranks(made))
    assert not {"Cast", "Gemm", "MatMul", "MatMulInteger", "Gather", "DequantizeLinear"} & set(ops)
    (call,) = [n for n in made.model.graph.node if n.name == "last"]
    own = {t.name: onnx.numpy_helper.to_array(t) for t in made.model.graph.initializer}
    a, b, m = (own[name] for name in call.input[-3:])
    assert {v.dtype.name for v in (a, b)} == {"int8"}
    assert any(tuple(t.dims) == (24 + len(m), 9) for t in stored.values())
    assert not b.astype(int).sum(axis=0).any()
    assert a[:, : ranks(made)["last"]].any(axis=0).all()
    assert not a[:, ranks(made)["last"] :].any()


@pytest.mark.parametrize("head", [STATIC, DYNAMIC])
def test_neighbours_may_keep_within_int16(head: str) -> None:
    """In the product for h, and in the one that reads both; then other factors keep to it, too."""
    with as_users_have_them():
        found = compiled(head, PATHS, reduce_range="on")
        feeds = random_feeds(found.model, seed=31)
        assert not [c for c in check_layers(found.model, feeds) if c.different]
        assert all(ranks(found).values())
        assert largest_factor(found.model) == 64
        assert largest_factor(compiled(head, PATHS, reduce_range="off").model) == 127
        swapped = swap_factors(found.model, factors_for("last", (9, 24), 4), calibration=calls())
        assert largest_factor(swapped) == 64


def largest_factor(model: onnx.ModelProto) -> int:
    """Two of 64 are the most that codes of 8 bits cannot bring out of int16."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type.endswith("_concat")]
    factors = [constants[name].astype(int) for n in nodes for name in n.input[-3:-1]]
    return max(int(np.abs(f).max()) for f in factors)


def test_the_path_repairs(made: lpcompile.Artefacts) -> None:
    feeds = random_feeds(parse_model(NET), seed=32)
    real = run_model(parse_model(NET), feeds)
    without = compiled(paths="correct-bias")
    for name in ("y", "z"):
        errors = [
            np.square(run_model(m.model, feeds)[name].astype(np.float64) - real[name]).sum()
            for m in (made, without)
        ]
        assert errors[0] < 0.8 * errors[1]


def test_a_replay_is_the_same_file(made: lpcompile.Artefacts, tmp_path: Path) -> None:
    assert made.decisions.count('side_lowering = "concat-in"') == len(ranks(made))
    file = tmp_path / "decisions.toml"
    file.write_text(made.decisions, "utf-8")
    again = compiled(passes=None, decisions=file)
    assert again.model.SerializeToString() == made.model.SerializeToString()


@pytest.mark.thorough
def test_codes_that_are_chosen_by_moments_are_replayed(tmp_path: Path) -> None:
    """Ranges, factors and codes of both rounds come back from the samples; a form that is edited is carried out."""
    weights = "quantize-weights{format=fixp4,granularity=group,group-size=8,rounding=gptq,sweeps=0}"
    passes = f"{STATIC},{weights},{PATHS},correct-bias,requantize-weights"
    first = lpcompile.compile(parse_model(NET), passes=passes, calibration=calls(), target="ort")
    assert set(ranks(first).values()) == {3}
    file = tmp_path / "decisions.toml"
    for text, same in ((first.decisions, True), (first.decisions.replace("concat-in", "merged"), False)):
        file.write_text(text, "utf-8")
        again = lpcompile.compile(parse_model(NET), decisions=file, calibration=calls(), target="ort")
        assert (again.model.SerializeToString() == first.model.SerializeToString()) is same
    edited = again.decisions.replace("merged", "concat-in")
    file.write_text(edited, "utf-8")
    back = lpcompile.compile(parse_model(NET), decisions=file, calibration=calls(), target="ort")
    concatenated = [n.name for n in back.model.graph.node if n.op_type.endswith("_concat")]
    assert concatenated == list(ranks(first))


@pytest.mark.sweep
@pytest.mark.parametrize("opset", [13, 19, 21, 23])
@pytest.mark.parametrize("head", [STATIC, DYNAMIC, STATIC.replace("cost=none", "cost=none,format=uint4")])
def test_every_opset_and_codes_of_four_bits(opset: int, head: str) -> None:
    model = parse_model(NET, opset=opset)
    samples = [random_feeds(model, seed=i) for i in range(8)]
    passes = f"{head},{WEIGHTS},{PATHS}"
    found = lpcompile.compile(model, passes=passes, calibration=samples, target="ort", reduce_range="on")
    checks = check_layers(found.model, samples[2])
    assert sum("_concat" in c.op for c in checks) == 4
    assert not [c for c in checks if c.different]


def test_layers_that_take_none_say_why() -> None:
    found = compiled(paths=PATHS, calibration=None)
    (entry,) = [p for p in found.report["passes"] if p["name"] == "insert-lora"]
    assert {s["reason"] for s in entry["skips"]} == {
        "no calibration data, so what its path gives has no known range"
    }
    conv = parse_model(
        "m (float[1,8,6,6] x) => (float[1,9,6,6] y) <float[9,8,1,1] w> { [c] y = Conv (x, w) }"
    )
    passes = f"{STATIC},quantize-weights{{format=fixp4}},{PATHS}"
    samples = [random_feeds(conv, seed=i) for i in range(4)]
    found = lpcompile.compile(conv, passes=passes, calibration=samples, target="ort")
    (entry,) = [p for p in found.report["passes"] if p["name"] == "insert-lora"]
    assert [s["reason"] for s in entry["skips"]] == [
        "a Conv reads windows, which have no room for the numbers of a path"
    ]


def test_other_forms_refuse() -> None:
    with pytest.raises(TargetError, match="QDQ form has no side paths that stay apart"):
        compiled(paths=PATHS, emit="qdq")


# other factors


@pytest.mark.parametrize("head", [STATIC, DYNAMIC])
@pytest.mark.parametrize(
    ("rank", "size", "most"), [(1, 0.2, 0.03), (5, 0.2, 0.03), (2, 0.05, 0.08), (2, 2.0, 0.03)]
)
def test_swapped_factors_are_those_that_run(head: str, rank: int, size: float, most: float) -> None:
    """Against floats: what the output gains is the product of the new factors, with few bits where these are small."""
    found = compiled(head, PATHS)
    b, a = factors_for("last", (9, 24), rank)["last"]
    b *= np.float32(size)
    zeros = np.zeros((9, 1), np.float32), np.zeros((1, 24), np.float32)
    swapped, nothing = (swap_factors(found.model, {"last": f}, calibration=calls()) for f in ((b, a), zeros))
    feeds = calls()[3]
    assert not [c for c in check_layers(swapped, feeds) if c.different]
    outputs = [run_model(m, feeds)["y"].astype(np.float64) for m in (swapped, nothing)]
    shown = onnx.ModelProto()
    shown.CopyFrom(found.model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info("e", onnx.TensorProto.FLOAT, None))
    wanted = run_model(shown, feeds)["e"].astype(np.float64) @ (b.astype(np.float64) @ a).T
    error = np.linalg.norm(outputs[0] - outputs[1] - wanted) / np.linalg.norm(wanted)
    assert error < most
    kept = side_factors(swapped)
    assert len(kept["last"][1]) == rank
    np.testing.assert_allclose(kept["last"][0] @ kept["last"][1], b @ a, atol=most * np.abs(b @ a).max())
    before = side_factors(found.model)
    np.testing.assert_array_equal(kept["floats"][0], before["floats"][0])
    old = {i.name: i.SerializeToString() for i in found.model.graph.initializer}
    now = {i.name: i.SerializeToString() for i in swapped.graph.initializer}
    assert [n for n in now if old.get(n) != now[n]] == [f"last/path_{role}" for role in "abm"]


def test_swapping_needs_samples_and_factors_of_a_size(made: lpcompile.Artefacts) -> None:
    b, a = factors_for("last", (9, 24), 2)["last"]
    with pytest.raises(InputError, match="new factors of layer 'last' need samples"):
        swap_factors(made.model, {"last": (b, a)})
    for size in (1e-3, 1e4):
        with pytest.raises(InputError, match="too small or too large"):
            swap_factors(made.model, {"last": (b * np.float32(size), a)}, calibration=calls())
    with pytest.raises(InputError, match="layer 'other' has no side path that stays apart"):
        swap_factors(made.model, {"other": (b, a)}, calibration=calls())


def test_the_command_line(made: lpcompile.Artefacts, tmp_path: Path) -> None:
    model, data, new, other = (str(tmp_path / n) for n in ("m.onnx", "data.npz", "new.onnx", "other.npz"))
    onnx.save(made.model, model)
    np.savez(data, x=np.stack([c["x"] for c in calls()]))
    np.savez(other, **written_factors(factors_for("last", (9, 24), 4)))  # type: ignore[arg-type]
    words = ["factors", model, "--swap", other, "--output", new, "--json"]
    assert "--calibration-data" in CliRunner().invoke(main, words).output
    result = CliRunner().invoke(main, [*words, "--calibration-data", data])
    assert result.exit_code == 0, result.output
    assert {r["layer"]: r["rank"] for r in json.loads(result.output)["layers"]}["last"] == 4
    expected = swap_factors(made.model, factors_for("last", (9, 24), 4), calibration=calls())
    assert onnx.load(new).SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
