"""Graphs that users have and that broke a compilation once: scalars among the outputs, newer spellings."""

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.runtime.compare import compare
from tests.networks import Calls
from tests.support import parse_model, run_model


def normal_calls(*shape: int, count: int = 8) -> Calls:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def compiled(model: ModelProto, calls: Calls, recipe: str, least_db: float = 15.0) -> lpcompile.Artefacts:
    """Compile, and compare on a call that was not given."""
    made = lpcompile.compile(model, calibration=calls[:-1], recipe=recipe)
    found = compare([(run_model(model, calls[-1]), run_model(made.model, calls[-1]))]).sqnr_db
    assert found is not None
    assert found >= least_db
    return made


@pytest.mark.parametrize("opset", [18, 21, 24])
def test_a_classifier_with_a_softmax_of_a_newer_opset(opset: int) -> None:
    model = parse_model(
        """m (float[N,8] x) => (float[N,6] y) <float[8,16] a, float[16,6] b> {
        [one] t = MatMul (x, a)  u = Relu (t)  [two] v = MatMul (u, b)  y = Softmax (v) }""",
        opset=opset,
    )
    made = compiled(model, normal_calls(4, 8), "auto")
    assert not any("gradient" in w for w in made.report["warnings"])


def test_an_output_of_one_number() -> None:
    model = parse_model("""m (float[N,8] x) => (float[N,6] y, float size) <float[8,16] a, float[16,6] b> {
        [one] t = MatMul (x, a)  u = Relu (t)  [two] y = MatMul (u, b)
        size = ReduceSumSquare <keepdims = 0> (y) }""")
    made = compiled(model, normal_calls(4, 8), "npp")
    assert not any("gradient" in w for w in made.report["warnings"])
