"""Write `models/toy/*.onnxtxt`: graphs of a few nodes in the text form of `onnx.parser`, for tests.

    python models/make_toys.py

In a template an initialiser `float[4,3] w = @` gets seeded values; names that begin with `var` get positive
ones.
"""

import math
import re
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'

TOYS = {
    "conv_bn_relu": """
conv_bn_relu (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[4,3,3,3] w = @, float[4] b = @,
 float[4] gamma = @, float[4] beta = @, float[4] mean = @, float[4] var = @>
{
    t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    u = BatchNormalization (t, gamma, beta, mean, var)
    y = Relu (u)
}
""",
    "residual_add": """
residual_add (float[N,4,8,8] x) => (float[N,4,8,8] y)
<float[4,4,3,3] w1 = @, float[4] b1 = @, float[4,4,3,3] w2 = @, float[4] b2 = @>
{
    t = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    u = Relu (t)
    v = Conv <pads = [1, 1, 1, 1]> (u, w2, b2)
    s = Add (v, x)
    y = Relu (s)
}
""",
    "concat_branches": """
concat_branches (float[N,4,8,8] x) => (float[N,7,4,4] y)
<float[4,4,1,1] w1 = @, float[3,4,3,3] w2 = @, float[3] b2 = @>
{
    a = Conv (x, w1)
    b = Conv <pads = [1, 1, 1, 1]> (x, w2, b2)
    c = Concat <axis = 1> (a, b)
    d = Relu (c)
    y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
}
""",
    "depthwise": """
depthwise (float[N,6,8,8] x) => (float[N,4] y)
<float[6,1,3,3] w1 = @, float[6] b1 = @, float[4,6,1,1] w2 = @, float[4] b2 = @,
 float low = {0.0}, float high = {6.0}>
{
    t = Conv <group = 6, pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
    u = Clip (t, low, high)
    v = Conv (u, w2, b2)
    p = GlobalAveragePool (v)
    y = Flatten (p)
}
""",
    "matmul_bias": """
matmul_bias (float[N,5,8] x) => (float[N,5,3] y)
<float[8,6] w1 = @, float[6] b1 = @, float[6,3] w2 = @, float[3] b2 = @,
 float root = {1.4142135}, float one = {1.0}, float half = {0.5}>
{
    t = MatMul (x, w1)
    u = Add (t, b1)
    d = Div (u, root)
    e = Erf (d)
    f = Add (e, one)
    g = Mul (u, f)
    h = Mul (g, half)
    v = MatMul (h, w2)
    y = Add (b2, v)
}
""",
    "if_body": """
if_body (float[N,4] x, bool flag) => (float[N,3] y)
<float[4,4] w = @, float[4] b = @, float[4,3] v = @>
{
    h = Gemm (x, w, b)
    y = If (flag) <
        then_branch = then_body () => (float[N,3] a) { r = Relu (h)  a = MatMul (r, v) },
        else_branch = else_body () => (float[N,3] c) { c = MatMul (h, v) }
    >
}
""",
    "shared_weights": """
shared_weights (float[N,4] x) => (float[N,4] y, float[N,4] z)
<float[4,4] w = @, float[4] b = @>
{
    t = Gemm <transB = 1> (x, w, b)
    y = Relu (t)
    u = Gemm <transB = 1> (y, w, b)
    z = Tanh (u)
}
""",
}


def fill(name: str, template: str) -> str:
    """Return the template with every `@` replaced by values of three decimals, seeded by the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))

    def values(match: re.Match[str]) -> str:
        shape = [int(n) for n in match["shape"].split(",")]
        x = rng.normal(0.0, 1.0 / math.sqrt(math.prod(shape[1:]) or 1), math.prod(shape))
        if match["name"].startswith("var"):
            x = 0.5 + np.abs(x)
        return f"{match[0][:-1]}{{{', '.join(f'{v:.3f}' for v in x)}}}"

    return re.sub(r"float\[(?P<shape>[\d,]+)\] (?P<name>\w+) = @", values, template)


def main() -> None:
    """Write all toys and check each."""
    folder = Path(__file__).resolve().parent / "toy"
    folder.mkdir(exist_ok=True)
    for name, template in TOYS.items():
        text = HEADER + fill(name, template).lstrip()
        onnx.checker.check_model(onnx.parser.parse_model(text), full_check=True)
        (folder / f"{name}.onnxtxt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
