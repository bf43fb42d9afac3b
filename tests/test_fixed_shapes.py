"""Shapes that the user fixes: samples are cut as the model will take them."""

import numpy as np
import pytest

import lpcompile
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model

MODEL = """m (float[N,T,16] x) => (float[N,T,8] y) <float[16,32] w, float[32,8] v> {
    h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }"""
SAMPLES = {"x": np.random.default_rng(0).standard_normal((24, 6, 16)).astype(np.float32)}
ONE = {"x": (1, 6, 16)}


@pytest.mark.parametrize("target", ["ort", "cim"])
def test_a_batch_of_one_takes_samples_one_by_one(target: str) -> None:
    made = lpcompile.compile(
        parse_model(MODEL), target=target, calibration=SAMPLES, input_shapes=ONE, recipe="int8"
    )
    assert [d.dim_value for d in made.model.graph.input[0].type.tensor_type.shape.dim] == [1, 6, 16]
    assert made.report["quality"]["sqnr_db_output"] > 30


def test_a_plan_and_an_analysis_do_so_too() -> None:
    planned = lpcompile.passes.quantize_activations(parse_model(MODEL), calibration=SAMPLES, input_shapes=ONE)
    assert planned._context.calibration is not None
    assert {c["x"].shape for c in planned._context.calibration.calls} == {(1, 6, 16)}
    found = lpcompile.analyze(parse_model(MODEL), calibration=SAMPLES, input_shapes=ONE)
    assert len(found["layers"]) == len(LpGraph.from_proto(parse_model(MODEL)).layers())
