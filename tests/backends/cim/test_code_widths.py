"""Weights of 2 to 7 bits have as many bit planes, and their programs compute what the model does."""

from pathlib import Path

import pytest

from lpcompile.backends.cim.build import DEFAULT_MACHINE
from tests.backends.cim.network_checks import check, compiled
from tests.support import parse_model, random_feeds

NETWORK = """m (float[N,3,6,6] x) => (float[N,4] y)
<float[8,3,3,3] w, float[8] b, float[4,8] v, float[4] c> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu (a)
    g = GlobalAveragePool (r)  f = Flatten (g)  y = Gemm <transB = 1> (f, v, c) }"""


@pytest.mark.parametrize("fmt", ["int2", "int3", "int5", "fixp6", "int7"])
def test_programs_compute_what_the_model_does(fmt: str, tmp_path: Path) -> None:
    model = parse_model(NETWORK)
    calls = [random_feeds(model, seed=i) for i in range(5)]
    made = compiled(model, calls[:-1], DEFAULT_MACHINE, tmp_path, recipe="w4a8", weight_format=fmt)
    assert {layer["weight_format"] for layer in made.report["layers"]} == {fmt}
    assert check(made, DEFAULT_MACHINE, calls[-1], planes=True, interpreter=True)
