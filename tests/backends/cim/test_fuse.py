"""Fusion: the same integers with and without it, and what it takes over."""

from pathlib import Path

import numpy as np
import pytest

from lpcompile.backends.cim import device_stage
from lpcompile.backends.cim.fuse import fuse
from lpcompile.backends.cim.program import Requant, Window
from lpcompile.backends.cim.views import View, channels_last, packed_strides
from lpcompile.backends.cim.work import Buffers, Dense, Finish, Lut, Map, Product, Rescale, Sum, Work
from tests.backends.cim.network_checks import assert_equal, check, compiled, program_of, simulated
from tests.backends.cim.random_machines import description
from tests.support import parse_model, random_feeds

SHAPE = (1, 4, 3, 3)
R = Requant((1, 2), (0,), (0,), 0, 0, 255)


def view(buffer: int) -> View:
    return View(buffer, "u8", SHAPE, packed_strides(SHAPE, channels_last(4), 1)).transposed(channels_last(4))


def conv(x: int, out: int) -> Dense:
    window = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    return Dense("conv", view(x), view(out), window, np.ones((4, 4), np.int8), R, 8, 0)


def add(x: int, other: int, out: int, step: Sum | Product = Sum(R)) -> Map:  # noqa: B008
    return Map("add", view(x), view(other), view(out), step)


def buffers(ports: set[int]) -> Buffers:
    return Buffers([36] * 6, ports)


def test_a_layer_takes_over_what_alone_reads_it() -> None:
    chain: list[Work] = [conv(0, 1), Map("lut", view(1), None, view(2), Lut(bytes(256))), add(2, 0, 3)]
    (found,) = fuse(chain, buffers({0, 3}))
    assert isinstance(found, Dense)
    assert found.out == view(3)
    assert found.steps == (Finish(Lut(bytes(256)), None, "lut"), Finish(Sum(R), view(0), "add"))


def test_the_second_operand_may_be_the_layer() -> None:
    (found,) = fuse([conv(0, 1), add(0, 1, 2)], buffers({0, 2}))
    assert isinstance(found, Dense)
    assert found.steps == (Finish(Sum(Requant((2, 1), (0,), (0,), 0, 0, 255)), view(0), "add"),)
    (found,) = fuse([conv(0, 1), add(0, 1, 2, Product(R, (3, 5)))], buffers({0, 2}))
    assert isinstance(found, Dense)
    assert found.steps[0].step == Product(R, (5, 3))


@pytest.mark.parametrize(
    ("work", "ports"),
    [
        ([conv(0, 1), add(1, 0, 2), add(1, 0, 3)], {0, 2, 3}),  # two readers
        ([conv(0, 1), add(1, 0, 2)], {0, 1, 2}),  # the layer's own output leaves
        ([conv(0, 1), add(1, 1, 2)], {0, 2}),  # both operands
    ],
)
def test_what_others_read_stays(work: list[Work], ports: set[int]) -> None:
    assert fuse(work, buffers(ports)) == work


def test_the_layer_waits_for_the_other_operand() -> None:
    first, second = conv(0, 1), conv(0, 2)
    found = fuse([first, second, add(1, 2, 3)], buffers({0, 3}))
    assert len(found) == 2
    assert isinstance(found[1], Dense)
    assert found[1].steps[0].other in (view(1), view(2))


def test_per_channel_steps_need_the_channels_last() -> None:
    turned = Map("norm", view(1).transposed((0, 3, 1, 2)), None, view(2).transposed((0, 3, 1, 2)), Rescale(R))
    assert len(fuse([conv(0, 1), turned], buffers({0, 2}))) == 2


NETWORK = """net (float[N,4,5,5] x) => (float[N,6,5,5] y)
    <float[6,4,3,3] w1, float[6,6,1,1] w2, float[6,1,3,3] d, float[6,6,1,1] w3, float[6,1,1] c> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Sigmoid (a)
    e = Conv (b, w2)
    f = Add (e, b)
    g = Conv <pads = [1, 1, 1, 1], group = 6> (f, d)
    h = Mul (f, g)
    i = Transpose <perm = [0, 1, 3, 2]> (h)
    k = Mul (i, c)
    y = Conv (k, w3) }"""


@pytest.mark.thorough
def test_results_are_those_without_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse_model(NETWORK)
    calls = [random_feeds(model, seed=i) for i in range(4)]
    fused = compiled(model, calls, "reference", tmp_path)
    monkeypatch.setattr(device_stage, "fuse", lambda work, _: list(work))
    plain = compiled(model, calls, "reference", tmp_path)
    feeds, machine = random_feeds(model, seed=9), description("reference")
    assert fused.report["program"]["instructions"] < plain.report["program"]["instructions"]
    assert check(fused, "reference", feeds)
    assert_equal(simulated(program_of(plain), machine, feeds), simulated(program_of(fused), machine, feeds))
