"""Each check finds what it is for, and is content with a sound model."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lpcompile.runtime import checks as checks_module
from lpcompile.runtime.checks import Check, check_calls, check_file, check_outputs
from lpcompile.runtime.layer_check import LayerCheck
from lpcompile.runtime.session import Session
from tests.networks import compiled_toy, toy_calls

HEADER = '<ir_version: 10, opset_import: ["": 17, "lpcompile": 1]>'
SOUND = (
    HEADER
    + """
g (float[n, 2] x) => (float[n, 2] y) <float[2] w = {1, 2}> { y = lpcompile.Scale(x, w) }
<domain: "lpcompile", opset_import: ["": 17]> Scale (x, w) => (y) { y = Mul(x, w) }
"""
)


def saved(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def failing(checks: list[Check]) -> dict[str, str]:
    return {c.name: c.detail for c in checks if not c.ok}


def test_a_sound_model_passes(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", SOUND)
    assert not failing(check_file(path, path))
    assert not failing(check_outputs(Session(path), [{"x": np.ones((3, 2), np.float32)}]))


def test_dead_initialisers_are_found_and_captured_ones_are_not_dead(tmp_path: Path) -> None:
    text = (
        HEADER
        + """
    g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[1] dead = {3}> {
        y = If(c)<then_branch = t () => (float[2] a) { a = Mul(x, w) },
                  else_branch = e () => (float[2] b) { b = Identity(x) }>
    }"""
    )
    assert failing(check_file(saved(tmp_path / "m.onnx", text))) == {"initialisers": "1 dead: dead"}


def test_functions_without_a_body_are_found(tmp_path: Path) -> None:
    text = SOUND.replace("lpcompile.Scale(x, w)", "lpcompile.Other(x, w)")
    assert failing(check_file(saved(tmp_path / "m.onnx", text))) == {
        "functions": "no body for lpcompile::Other"
    }


def test_another_interface_and_growth_are_found(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.onnx", SOUND)
    model = onnx.parser.parse_model(
        SOUND.replace("float[n, 2] y", "float[n, 2] result").replace("{ y = lp", "{ result = lp")
    )
    model.doc_string = "x" * (65 << 10)
    onnx.save(model, tmp_path / "b.onnx")
    assert set(failing(check_file(tmp_path / "b.onnx", before))) == {"interface", "size"}


@pytest.mark.parametrize(("value", "bad"), [(4.0, {}), (-1.0, {"finite": "NaN or infinity in y"})])
def test_outputs_must_be_finite(value: float, bad: dict[str, str]) -> None:
    session = Session(onnx.parser.parse_model(HEADER + "g (float[1] x) => (float[1] y) { y = Sqrt(x) }"))
    assert failing(check_outputs(session, [{"x": np.array([value], np.float32)}])) == bad


def test_a_model_that_fails_while_running_is_found() -> None:
    text = HEADER + "g (float[n] x, int64[m] s) => (float[k] y) { y = Reshape(x, s) }"
    session = Session(onnx.parser.parse_model(text))
    found = failing(check_outputs(session, [{"x": np.ones(4, np.float32), "s": np.array([3])}]))
    assert list(found) == ["runs"]


def test_calls_give_what_they_say(tmp_path: Path) -> None:
    made, calls = compiled_toy("residual_add"), toy_calls("residual_add")
    onnx.save(made.model, tmp_path / "m.onnx")
    (check,) = check_calls(tmp_path / "m.onnx", calls)
    assert check == Check("layers", True, "2 calls equal the numpy reference")
    assert check_calls(tmp_path / "m.onnx", []) == []


def test_calls_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elementwise calls may be off by a step, layers by nothing."""
    made, calls = compiled_toy("residual_add"), toy_calls("residual_add")
    onnx.save(made.model, tmp_path / "m.onnx")
    found = [LayerCheck(f"n{i}", "QuantConv_int8", 9, 1, 1.0) for i in range(4)]
    found += [LayerCheck("sum", "QuantAdd", 9, 9, 1.0), LayerCheck("far", "QuantAdd", 9, 1, 2.0)]
    monkeypatch.setattr(checks_module, "check_layers", lambda *_, **__: found)
    (check,) = check_calls(tmp_path / "m.onnx", calls)
    assert check == Check("layers", False, "5 calls differ from the numpy reference, of 6: n0, n1, n2, ...")


def test_calls_of_edited_files(tmp_path: Path) -> None:
    """Functions that are not ours, attributes that are gone; a model without calls has nothing to be held against."""
    feeds = [{"x": np.ones((3, 2), np.float32)}]
    unknown = saved(tmp_path / "a.onnx", SOUND)
    assert failing(check_calls(unknown, feeds)) == {
        "layers": "'lpcompile::Scale' is no operator of lpcompile"
    }
    plain = saved(tmp_path / "b.onnx", SOUND.replace("lpcompile.Scale(x, w)", "Mul(x, w)"))
    assert check_calls(plain, feeds) == []
    made = onnx.ModelProto()
    made.CopyFrom(compiled_toy("residual_add").model)
    for node in made.graph.node:
        if node.domain == "lpcompile":
            del node.attribute[:]
    onnx.save(made, tmp_path / "c.onnx")
    (check,) = check_calls(tmp_path / "c.onnx", toy_calls("residual_add"))
    assert not check.ok
