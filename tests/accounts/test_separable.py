"""Published and derived counts of MobileNetV1, PikeLPN and ResNet-50. [notes pikelpn.md 6.2 to 6.5]."""

import functools
from collections import Counter

import numpy as np
import pytest

from lpcompile.accounts.entries import Account
from lpcompile.accounts.graphs import float_account
from lpcompile.accounts.planned import planned_account
from lpcompile.accounts.sizes import settled
from lpcompile.analysis.arithmetic import Kind, Operation
from lpcompile.assignment.layer_facts import LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import ace
from lpcompile.assignment.requantisation import DYADIC, DYADIC8, FLOAT, POWER_OF_TWO, Requantisation
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, WeightPlan
from models.separable import PIKELPN, Member, mobilenet_v1
from tests.accounts.planned_networks import entries, member
from tests.accounts.residual_network import resnet50


@functools.cache
def float_network(width: float, activation: str = "relu") -> tuple[LpGraph, Account]:
    graph = LpGraph.from_proto(mobilenet_v1(width, activation=activation))
    graph.infer_shapes()
    return graph, float_account(settled(graph))


@functools.cache
def pikelpn(name: str, own: Requantisation) -> Account:
    return planned_account(member(PIKELPN[name]), own)


def macs_of(account: Account) -> Counter[str]:
    found: Counter[str] = Counter()
    for e in account.entries:
        kind = e.node.rstrip("0123456789")
        found[kind] += sum(n for (_, o), n in e.work.items() if o.kind in (Kind.MAC, Kind.SHIFT_MAC))
    return +found


TABLE = {  # stem, depthwise, pointwise, fully connected, outputs of convolutions, parameters without norms
    1.0: (10_838_016, 17_385_984, 539_492_352, 1_024_000, 5_042_688, 4_210_088),
    1.5: (16_257_024, 26_078_976, 1_213_857_792, 1_536_000, 7_564_032, 8_669_320),
    2.0: (21_676_032, 34_771_968, 2_157_969_408, 2_048_000, 10_085_376, 14_698_344),
}


@pytest.mark.sweep
@pytest.mark.parametrize("width", TABLE)
def test_macs_outputs_and_parameters_of_mobilenet(width: float) -> None:
    graph, account = float_network(width)
    stem, dw, pw, fc, outputs, parameters = TABLE[width]
    assert macs_of(account) == {"stem": stem, "dw": dw, "pw": pw, "fc": fc}
    assert account.ace == 1024 * (stem + dw + pw + fc)
    assert sum(c.dims[0] for c in graph.constants() if c.name == "fc/bias") == 1000
    weights = [c for c in graph.constants() if c.name.endswith("/weight") or c.name == "fc/bias"]
    assert sum(int(np.prod(c.dims)) for c in weights) == parameters
    norms = account.by_class()["norm"]
    assert norms == outputs * (1024 + 32)  # a float product and addition an output


def test_first_layers_of_mobilenet() -> None:
    found = entries(float_network(1.0)[1])
    for name, macs in (("stem", 10_838_016), ("dw1", 3_612_672), ("pw1", 25_690_112), ("dw2", 1_806_336)):
        assert found[name].ace == 1024 * macs


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("fmt", "bits", "expected"), [("int8", 8, 36_399_382_528), ("int4", 4, 9_099_845_632)]
)
def test_ace_of_quantised_mobilenet(fmt: str, bits: int, expected: int) -> None:
    account = planned_account(member(Member(1.0, bits), fmt))
    layers = [layer_facts(n) for n in member(Member(1.0, bits)).layers()]
    held = LayerFormat(WeightPlan(fmt), bits, Kernel.INTEGER)
    assert sum(ace(facts, held) for facts in layers) == expected
    if bits == 8:  # the image of a plan has 8 bits at least
        assert account.ace == expected


def products_and(account: Account, names: tuple[str, ...]) -> float:
    """ACEv2 of layers with the elementwise work of convolutions, but for clips: what the notes count."""
    total = 0.0
    for e in account.entries:
        wanted = ("mac", "shift_mac", *(names if e.op == "Conv" else ()))
        total += sum(v for k, v in e.by_class().items() if k in wanted)
    return total


@pytest.mark.parametrize(
    ("own", "elementwise", "total"),
    [
        (POWER_OF_TWO, 322_732_032, 6_510_542_848),
        (DYADIC8, 1_452_294_144, 7_640_104_960),
    ],
)
def test_pikelpn_1x(own: Requantisation, elementwise: int, total: int) -> None:
    account = pikelpn("pikelpn-1x", own)
    found = {e.node: e.by_class() for e in account.entries}
    assert found["stem"]["mac"] == 693_633_024
    assert found["fc"]["mac"] == 65_536_000
    assert sum(v.get("mac", 0) for k, v in found.items() if k.startswith("dw")) == 1_112_702_976
    assert sum(v.get("shift_mac", 0) for k, v in found.items() if k.startswith("pw")) == 4_315_938_816
    assert sum(e.by_class()["scale"] for e in account.entries if e.op == "Conv") == elementwise
    assert products_and(account, ("scale",)) == total


def test_two_float_products_an_output_cost_twice_the_whole() -> None:
    """Scale and norm apart in floats, 16,676,601,856: 2.2 times the 8-bit case."""
    outputs, narrow = TABLE[1.0][4], pikelpn("pikelpn-1x", FLOAT)
    second = outputs * Operation(Kind.MULTIPLY, 32, 32, floats=True).acev2
    assert products_and(narrow, ("scale",)) + second == 16_676_601_856


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "expected"),
    [("pikelpn-1x", 7.64), ("pikelpn-2x", 13.13), ("pikelpn-3x", 26.17), ("pikelpn-6x", 43.53)],
)
def test_the_family_costs_what_its_names_say(name: str, expected: float) -> None:
    """The image has 8 bits in all of them; figures of the notes are cut, not rounded."""
    total, of = products_and(pikelpn(name, DYADIC8), ("scale",)), PIKELPN[name]
    stem, dw, pw, fc, outputs, _ = TABLE[of.width]
    bits = of.activation_bits
    assert total == 64 * stem + 8 * bits * (dw + fc) + bits * pw + 288 * outputs
    assert total // 10**7 == round(100 * expected)
    whole = products_and(pikelpn("pikelpn-1x", DYADIC8), ("scale",))
    assert round(total / whole) == int(name[-2])


@pytest.mark.parametrize(
    ("operations", "shares"),
    [
        ([*3 * [Operation(Kind.MULTIPLY, 32, 32, floats=True)], FLOAT.add], (96.5, 87.3, 63.2, 30.1)),
        (FLOAT.operations(), (90.4, 70.1, 36.9, 12.8)),
        (DYADIC.operations(), (82.8, 54.7, 23.2, 7.0)),
        (DYADIC8.operations(), (71.9, 39.0, 13.8, 3.8)),
        (POWER_OF_TWO.operations(), (36.2, 12.4, 3.4, 0.9)),
    ],
)
def test_shares_of_elementwise_work(operations: list[Operation], shares: tuple[float, ...]) -> None:
    """By what an output of a convolution takes, for weights and activations of 1, 2, 4 and 8 bits."""
    macs, outputs = sum(TABLE[1.0][:4]), TABLE[1.0][4]
    elementwise = outputs * sum(o.acev2 for o in operations)
    for bits, share in zip((1, 2, 4, 8), shares, strict=True):
        products = macs * Operation(Kind.MAC, bits, bits).acev2
        assert 100 * elementwise / (elementwise + products) == pytest.approx(share, abs=0.051)


def test_parameterised_activations_multiply_and_compare() -> None:
    plain, slopes = float_network(1.0)[1], float_network(1.0, "prelu")[1]
    outputs = TABLE[1.0][4]
    assert plain.by_class()["activation"] == 0
    assert slopes.by_class()["activation"] == 1024 * outputs
    assert slopes.by_class()["compare"] == plain.by_class()["compare"] == 32 * outputs


def test_resnet50_is_the_published_one() -> None:
    """Values of AQT's own test, per image: bf16 (counted here from 16-bit weights), W8A8, W4A4, W4A2, W8 on bf16."""
    graph = LpGraph.from_proto(resnet50())
    graph.infer_shapes()
    assert float_account(settled(graph)).ace == 1_046_831_169_536
    layers = [layer_facts(n) for n in settled(graph).layers()]
    assert sum(facts.macs for facts in layers) == 4_089_184_256
    for fmt, bits, expected in (
        ("int8", 8, 261_707_792_384),
        ("int4", 4, 65_426_948_096),
        ("int4", 2, 32_713_474_048),
        ("int8", 16, 523_415_584_768),
    ):
        held = LayerFormat(WeightPlan(fmt), bits, Kernel.INTEGER)
        assert sum(ace(facts, held) for facts in layers) == expected
