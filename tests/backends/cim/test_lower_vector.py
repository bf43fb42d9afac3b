"""Work without arrays, cut for a local buffer of one KiB: the integers of ONNX Runtime, and nothing on the host."""

from pathlib import Path

import pytest

from lpcompile.backends.cim.machine import machine_text
from tests.backends.cim.network_checks import check, compiled, program_of
from tests.backends.cim.random_machines import with_values
from tests.support import parse_model, random_feeds

TINY = with_values(machine_text("reference"), buffers__local_kib=1)
NETWORK = """net (float[{n},3,{h},{w}] x) => (float[{n},2,a,b] y)
    <float[5,3,1,1] w1, float[2,5,1,1] w2, float[5,1,1] c, float[5] s, float[5] var,
     int64[8] pads = {{0, 0, 1, 2, 0, 0, 2, 0}},
     int64[1] three = {{3}}, int64[1] one = {{1}}, int64[2] halves = {{2, 3}}> {{
    a = Conv (x, w1)
    {middle}
    y = Conv (b, w2) }}"""
WORK = {
    "a mean in bands": (40, 30, "b = GlobalAveragePool (a)"),
    "a mean of one long row": (1, 900, "b = GlobalAveragePool (a)"),
    "a mean of windows": (9, 8, "b = AveragePool <kernel_shape = [3, 2], strides = [2, 1]> (a)"),
    "divisors at the border": (9, 8,
        "b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (a)"),
    "pads that count": (7, 8,
        "b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (a)"),
    "a mean of large windows": (45, 31, "b = AveragePool <kernel_shape = [43, 29]> (a)"),
    "padded windows in bands": (26, 27,
        "b = AveragePool <kernel_shape = [25, 25], pads = [8, 8, 8, 8], strides = [5, 5]> (a)"),
    "padded windows in bands whose pads count": (26, 27,
        "b = AveragePool <kernel_shape = [25, 25], pads = [8, 8, 8, 8], strides = [5, 5],"
        " count_include_pad = 1> (a)"),
    "a maximum": (9, 8,
        "b = MaxPool <kernel_shape = [3, 2], pads = [1, 0, 2, 1], strides = [2, 2], dilations = [1, 2]> (a)"),
    "a maximum with a ceiling": (8, 8, "b = MaxPool <kernel_shape = [3, 3], strides = [2, 3], ceil_mode = 1> (a)"),
    "a sum": (9, 8,
        "d = Transpose <perm = [0, 1, 3, 2]> (a)\ne = Transpose <perm = [0, 1, 3, 2]> (d)\nb = Add (a, e)"),
    "a sum with one value a channel": (9, 8, "d = GlobalAveragePool (a)\nb = Add (a, d)"),
    "a product with a table": (9, 8, "e = Sigmoid (a)\nb = Mul (e, a)"),
    "a squeeze and excitation": (9, 8, "d = GlobalAveragePool (a)\ne = Sigmoid (d)\nb = Mul (a, e)"),
    "a table": (9, 8, "d = MaxPool <kernel_shape = [1, 1]> (a)\nb = Tanh (d)"),
    "one scale a channel": (9, 8, "d = MaxPool <kernel_shape = [2, 2]> (a)\nb = Mul (d, c)"),
    "a norm": (9, 8, "d = MaxPool <kernel_shape = [2, 2]> (a)\nb = BatchNormalization (d, s, s, s, var)"),
    "padding": (9, 8, "b = Pad (a, pads)"),
    "clamps": (9, 8, "d = MaxPool <kernel_shape = [2, 2]> (a)\nb = Relu (d)"),
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("name", WORK)
def test_work_without_arrays(name: str, tmp_path: Path) -> None:
    h, w, middle = WORK[name]
    model = parse_model(NETWORK.format(n="N", h=h, w=w, middle=middle), check=False)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(2)], TINY, tmp_path)
    assert not made.report["host"]
    feeds = {"x": random_feeds(model, seed=9)["x"][:1]}
    assert check(made, TINY, feeds, interpreter=h * w < 100)


def test_moves_and_fills_are_cut_to_five_axes(tmp_path: Path) -> None:
    text = """net (float[1,8,4,6] x) => (float[1,4,8,12] y)
        <float[16,8,1,1] w1, float[4,4,1,1] w2> {
        a = Conv (x, w1)
        b = DepthToSpace <blocksize = 2, mode = "CRD"> (a)
        y = Conv (b, w2) }"""
    model = parse_model(text)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(2)], TINY, tmp_path)
    program = program_of(made)
    assert max(len(d.dims) for d in program.descriptors) <= 5
    assert not made.report["host"]
    assert check(made, TINY, random_feeds(model, seed=9))
