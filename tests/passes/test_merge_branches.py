"""`merge-branches`: the same outputs from one convolution, in ONNX Runtime and in float64; every form and reason."""

import pytest

from lpcompile.passes.merge_branches import MergeBranches
from tests.passes.rewriting import rewrite
from tests.support import parse_model

RTOL = 1e-5
NORM = "float[4] scale, float[4] beta, float[4] mean, float[4] var"
SQUARE = "a = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
POINT = "p = Conv (x, v)"
BN = "n = BatchNormalization (x, scale, beta, mean, var)"
CONSTANTS = f"float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, {NORM}"


def model(body: str, constants: str = CONSTANTS, *, x: str = "1,4,6,6", y: str = "1,4,6,6") -> str:
    return f"m (float[{x}] x) => (float[{y}] y) <{constants}> {{ {body} }}"


FORMS = {
    "two kernels": f"{SQUARE} {POINT} y = Add (a, p)",
    "the tensor itself": f"{SQUARE} y = Add (x, a)",
    "its norm": f"{SQUARE} {BN} y = Add (a, n)",
    "three, nested": f"{SQUARE} {POINT} {BN} s = Add (n, p) y = Add (a, s)",
    "three, as Sum": f"{SQUARE} {POINT} {BN} y = Sum (p, a, n)",
    "one, as Sum": f"{SQUARE} {POINT} t = Sum (p) y = Add (t, a)",
    "the tensor twice": f"{SQUARE} t = Add (x, x) y = Add (t, a)",
    "scaled and shifted": f"{SQUARE} s = Mul (x, scale4) t = Sub (scale4, s) y = Add (a, t)",
    "a mean that counts its padding": f"""{SQUARE}
        m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x) y = Add (a, m)""",
    "a norm of a mean": f"""{SQUARE} m = AveragePool <kernel_shape = [1, 1]> (x)
        n = BatchNormalization (m, scale, beta, mean, var) y = Add (a, n)""",
    "a constant beside them": f"{SQUARE} {POINT} s = Add (a, scale4) y = Add (s, p)",
    "a norm behind them": f"""{SQUARE} {POINT} s = Add (a, p)
        y = BatchNormalization (s, scale, beta, mean, var)""",
    "VALID": """a = Conv <auto_pad = "VALID"> (x, v) y = Add (a, x)""",
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("opset", [11, 17])
def test_every_form_becomes_one_convolution(body: str, opset: int) -> None:
    text = model(body, f"{CONSTANTS}, float[1,4,1,1] scale4")
    graph, report = rewrite(MergeBranches(), parse_model(text, opset=opset), rtol=RTOL)
    assert graph.ops() == ["Conv"]
    assert report.changes[0].what.startswith("it does the work of ")
    assert not report.skips
