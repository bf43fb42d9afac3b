"""One step of a decoder through the whole compiler: large matrices, one row, 4-bit codes that stay packed."""

import functools
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.errors import DecisionsError
from lpcompile.ir.block_matmul import FAMILY, OP
from tests.support import Array, parse_model, run_model
from tests.support_quant import op_types, optimised

TEXT = """step (float[1,1,704] x) => (float[1,1,704] y) <float[704,800] up, float[800,704] down, float[800] b> {
    h = MatMul (x, up)
    s = Add (h, b)
    a = Relu (s)
    d = MatMul (a, down)
    y = Add (d, x)
}"""
LAYERS = ("MatMul_0", "MatMul_3")


@functools.cache
def model() -> ModelProto:
    return parse_model(TEXT, check=False)


@functools.cache
def calls() -> tuple[dict[str, Array], ...]:
    rng = np.random.default_rng(3)
    return tuple({"x": rng.standard_normal((1, 1, 704)).astype(np.float32)} for _ in range(8))


def compiled(*, data: bool = True, emit: str = "functions", recipe: str = "w4a8") -> lpcompile.Artefacts:
    """Rounded to nearest: how codes are chosen is no matter here. Made once for all tests."""
    return _compiled(data, emit, recipe)


@functools.cache
def _compiled(data: bool, emit: str, recipe: str) -> lpcompile.Artefacts:
    samples = list(calls()) if data else None
    return lpcompile.compile(model(), calibration=samples, recipe=recipe, emit=emit, effort=0)


@pytest.mark.sweep
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("emit", ["functions", "standard"])
def test_its_matrices_run_packed_and_the_report_says_so(data: bool, emit: str, tmp_path: Path) -> None:
    found = compiled(data=data, emit=emit)
    assert op_types(optimised(found.model, tmp_path)).count(OP) == 2
    assert "DynamicQuantizeMatMul" not in op_types(optimised(found.model, tmp_path))
    for row in found.report["layers"]:
        assert row["activation_format"] == "int8 (dynamic, blocks of 32)"
        assert row["weight_format"] == "fixp4"
        assert "MatMulNBits, accuracy level 4" in row["reason"]
        assert row["bits_per_weight"] < 4.2
    assert found.report["verification"]["integer_layers_checked"] == (2 if emit == "functions" else 0)
    assert found.report["verification"]["elements_different"] == 0
    assert found.report["quality"]["sqnr_db_output"] > 15  # that of 4-bit weights


@pytest.mark.thorough
def test_inputs_rounded_by_blocks_lose_less_than_weights_of_4_bits() -> None:
    floats = run_model(compiled(emit="qdq").model, calls()[0])["y"].astype(np.float64)
    packed = run_model(compiled().model, calls()[0])["y"]
    assert 10 * np.log10((floats**2).sum() / ((packed - floats) ** 2).sum()) > 35


@pytest.mark.thorough
def test_the_portable_form_says_that_it_is_another() -> None:
    found = compiled(emit="qdq")
    assert "2 layers are floats in this form: MatMulNBits is not portable" in found.report["warnings"]
    assert OP not in {n.op_type for f in found.model.functions for n in f.node}
    assert OP not in op_types(found.model)


@pytest.mark.thorough
def test_a_second_compilation_and_a_replay_give_the_same_bytes(tmp_path: Path) -> None:
    first = compiled()
    assert 'kernel = "matmul-nbits"' in first.decisions
    again = lpcompile.compile(model(), calibration=list(calls()), recipe="w4a8", effort=0)
    file = tmp_path / "decisions.toml"
    file.write_text(first.decisions, "utf-8")
    replay = lpcompile.compile(model(), calibration=list(calls()), decisions=file)
    for other in (again, replay):
        assert other.model.SerializeToString() == first.model.SerializeToString()
    assert again.decisions == first.decisions


@pytest.mark.thorough
def test_a_replay_takes_the_kernel_that_was_edited_in(tmp_path: Path) -> None:
    file = tmp_path / "decisions.toml"
    file.write_text(compiled().decisions.replace("matmul-nbits", "dynamic"), "utf-8")
    found = lpcompile.compile(model(), calibration=list(calls()), decisions=file)
    assert not any(n.op_type.startswith(FAMILY) for n in found.model.graph.node)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('format = "fixp4"', 'format = "posit4"', "posit4 is no 4-bit integer times a scale"),
        ('granularity = "group32"', 'granularity = "group16"', "groups of 16 inputs"),
    ],
)
def test_a_replay_refuses_what_cannot_be_held(old: str, new: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "decisions.toml"
    file.write_text(compiled().decisions.replace(old, new, 1), "utf-8")
    with pytest.raises(DecisionsError, match="cannot hold") as caught:
        lpcompile.compile(model(), calibration=list(calls()), decisions=file)
    assert reason in caught.value.message
    assert caught.value.hint == 'set kernel = "dynamic"'


@pytest.mark.parametrize("recipe", ["int8", "fp32"])
def test_other_recipes_say_nothing_of_it(recipe: str) -> None:
    report = compiled(recipe=recipe).report
    assert "packed" not in str([p["skips"] for p in report["passes"]])
    assert not any("packed" in row["reason"] for row in report["layers"])


@pytest.mark.thorough
def test_a_free_number_of_rows_keeps_them_from_it() -> None:
    free = parse_model(TEXT.replace("float[1,1,704]", "float[B,1,704]"), check=False)
    report = lpcompile.compile(free, recipe="w4a8").report
    skips = [s for p in report["passes"] if p["name"] == "quantize-activations" for s in p["skips"]]
    for name in LAYERS:
        reason = "its codes do not stay packed: the number of rows is not fixed"
        assert {"node": name, "reason": reason} in skips
    assert all(row["activation_format"] == "uint8 (dynamic)" for row in report["layers"])
