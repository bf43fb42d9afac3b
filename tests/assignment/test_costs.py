"""Costs of candidates: the published counts of MobileNetV1, hand counts of single layers, and what is refused."""

from dataclasses import replace

import pytest

from lpcompile.assignment.costs import COSTS, Setting, additive_bounds, costs_of
from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import acev2_by_class, layer_operations
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.errors import BudgetError, FormatError, TargetError
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.registry import target
from lpcompile.target import LayerShape
from tests.support import parse_model

BLOCKS = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
          *((512, 512, 1),) * 5, (512, 1024, 2), (1024, 1024, 1))  # fmt: skip  # (in, out, stride of the depthwise one)


def conv(name: str, inputs: int, outputs: int, side: int, kernel: int, group: int = 1) -> LayerFacts:
    k = inputs // group * kernel**2
    shape = LayerShape("Conv", 4, k, outputs, side**2, group, (kernel, kernel), inputs * side**2)
    return LayerFacts(name, shape, (outputs, k), k * outputs * side**2, outputs * side**2)


def mobilenet_v1() -> list[LayerFacts]:
    """MobileNetV1, width 1, at 224: 28 layers."""
    side, layers = 112, [conv("stem", 3, 32, 112, 3)]
    for inputs, outputs, stride in BLOCKS:
        side //= stride
        layers.append(conv("dw", inputs, inputs, side, 3, inputs))
        layers.append(conv("pw", inputs, outputs, side, 1))
    head = LayerShape("Gemm", 2, 1024, 1000, 1, input_elements=1024)
    return [*layers, LayerFacts("fc", head, (1000, 1024), 1_024_000, 1000, has_bias=True)]


def held(
    fmt: str, bits: int = 8, granularity: str = "channel", kernel: Kernel = Kernel.INTEGER
) -> LayerFormat:
    return LayerFormat(WeightPlan(fmt, granularity), bits, kernel)


def total(name: str, how: LayerFormat, where: Setting | None = None) -> float:
    return sum(costs_of([name], layer, how, where)[name] for layer in mobilenet_v1())


def test_ace_of_mobilenet_is_the_published_one() -> None:
    """Notes pikelpn.md 6.3."""
    assert sum(layer.macs for layer in mobilenet_v1()) == 568_740_352
    assert sum(layer.weights for layer in mobilenet_v1()) == 4_210_088 - 1000  # without the bias of the head
    assert total("ace", held("int8")) == 36_399_382_528
    assert total("ace", held("int4", 4)) == 9_099_845_632
    assert total("ace", LayerFormat()) == 568_740_352 * 1024


@pytest.mark.parametrize(
    ("fmt", "bits", "where", "share"),
    [
        ("int8", 8, Setting(), 12.8),
        ("int4", 4, Setting(), 36.9),
        ("int8", 8, Setting(target("cim")), 7.0),
        ("int4", 4, Setting(target("cim")), 23.2),
    ],
)
def test_elementwise_shares_of_mobilenet_are_those_of_the_notes(
    fmt: str, bits: int, where: Setting, share: float
) -> None:
    """Notes pikelpn.md 6.4: one float product and addition an output, or one 16 by 32 bits and one of 32."""
    effort, macs = (total(name, held(fmt, bits), where) for name in ("acev2", "ace"))
    assert 100 * (effort - macs) / effort == pytest.approx(share, abs=0.06)


def test_powers_of_two_shift_and_with_group_scales_multiply() -> None:
    """Notes pikelpn.md 6.5: pointwise layers of MobileNetV1 in PoT4."""
    pointwise = [layer for layer in mobilenet_v1() if layer.name == "pw"]
    shifts = [acev2_by_class(layer_operations(layer, held("pot4"))) for layer in pointwise]
    assert sum(found["shift_mac"] for found in shifts) == 4_315_938_816
    assert all("mac" not in found for found in shifts)
    grouped = acev2_by_class(layer_operations(pointwise[-1], held("pot4", 8, "group32")))
    assert grouped["mac"] == 1024 * 1024 * 49 * 4 * 8


def test_a_layer_by_hand() -> None:
    """9 outputs of 70 inputs: 630 MACs, 3 groups of 32."""
    shape = LayerShape("MatMul", 2, 70, 9, 1, input_elements=70)
    layer = LayerFacts("m", shape, (9, 70), 630, 9, has_bias=False)
    found = costs_of(
        ["bits", "bytes", "ace", "acev2", "energy45nm-pj", "posit", "posit-macs"],
        layer,
        held("posit4", 8, "group32"),
    )
    assert found["bits"] == 8 * found["bytes"] == 8 * (315 + 14 + 36)
    assert found["ace"] == 630 * 32
    assert found["acev2"] == 630 * 32 + 9 * 3 * (4 * 32 + 32) + 9 * (1024 + 32)
    macs, groups, outputs = 630 * (0.0992 + 0.1), 27 * (0.0031 * 128 + 0.1), 9 * (3.7 + 0.9)
    assert found["energy45nm-pj"] == pytest.approx(macs + groups + outputs)
    assert (found["posit"], found["posit-macs"]) == (630, 630)
    plain = costs_of(["posit", "posit-macs"], layer, held("fixp4"))
    assert plain == {"posit": 0, "posit-macs": 0}


def test_floats_meet_integers_as_floats() -> None:
    layer = mobilenet_v1()[-1]
    stored = LayerFormat(WeightPlan("posit8"), 32, Kernel.WEIGHT_ONLY)
    assert costs_of(["ace"], layer, stored)["ace"] == layer.macs * 8 * 32
    assert costs_of(["acev2"], layer, stored)["acev2"] == layer.macs * 1024 + 1000 * 32
    dynamic = held("int8", kernel=Kernel.DYNAMIC)
    assert costs_of(["acev2"], layer, dynamic)["acev2"] == layer.macs * 64 + 1000 * (1024 + 32)
    unbiased = replace(layer, has_bias=False)
    assert costs_of(["acev2"], unbiased, dynamic)["acev2"] == layer.macs * 64 + 1000 * 1024
    blocks = held("int4", granularity="group32", kernel=Kernel.NBITS)
    scale = acev2_by_class(layer_operations(unbiased, blocks))["scale"]
    assert scale == 1000 * (32 * (128 + 32) + 32 * 1024 + 31 * 32)


@pytest.mark.parametrize("name", ["nf4", "lut4:80a0b8ccdce8f400081018222e405a7f"])
def test_codebooks_multiply_what_they_look_up(name: str) -> None:
    layer = mobilenet_v1()[-1]
    assert costs_of(["ace"], layer, held(name))["ace"] == layer.macs * 4 * 8
    assert acev2_by_class(layer_operations(layer, held(name)))["mac"] == layer.macs * 8 * 8


@pytest.mark.parametrize("wide", ["int8", "fixp4", "posit4"])
def test_costs_fall_with_width_and_acev2_is_never_below_ace(wide: str) -> None:
    """Notes pikelpn.md 6.11."""
    for layer in mobilenet_v1():
        names = ["ace", "acev2", "energy45nm-pj"]
        more, less = costs_of(names, layer, held(wide, 8)), costs_of(names, layer, held(wide, 4))
        assert all(less[n] < more[n] for n in names)
        assert more["acev2"] >= more["ace"]
        narrow = costs_of(["bits", *names], layer, held("int2", 8))
        assert all(narrow[n] <= v for n, v in costs_of(["bits", *names], layer, held(wide, 8)).items())


def test_facts_are_those_of_the_node() -> None:
    model = parse_model(
        """g (float[n,6,8,8] x) => (float[n,10,4,4] y, float[n,12,16,16] t, float[2,5,9] m)
        <float[10,3,3,3] w, float[10] b, float[6,4,2,2] v, float[2,5,7] a, float[7,9] u>
        {
            y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b)
            t = ConvTranspose <group = 3, strides = [2, 2]> (x, v)
            i = Identity (a)
            m = MatMul (i, u)
        }"""
    )
    layers = [layer_facts(n) for n in LpGraph.from_proto(model).layers()]
    assert [layer.rows for layer in layers] == [(10, 27), (6, 16), (9, 7)]
    assert [layer.macs for layer in layers] == [16 * 10 * 27, 64 * 6 * 16, 10 * 63]
    assert [layer.output_elements for layer in layers] == [160, 12 * 256, 90]
    assert [layer.has_bias for layer in layers] == [True, False, False]
    assert [layer.shape.input_elements for layer in layers] == [384, 384, 70]


def test_bounds_on_averages_become_bounds_on_sums() -> None:
    layers = mobilenet_v1()
    weights = sum(layer.weights for layer in layers)
    found = additive_bounds({"avg-bits": 4.5, "posit-fraction": 0.1, "acev2": 7e9, "sqnr-db": 20}, layers)
    assert found == {"bits": 4.5 * weights, "posit": 0.1 * weights, "acev2": 7e9}
    assert additive_bounds({"avg-bits": 4.5, "bits": 100.0}, layers)["bits"] == 100


def test_times_are_those_of_the_recorded_table() -> None:
    layer, ort = mobilenet_v1()[2], target("ort")
    assert ort.cost_model is not None
    where = Setting(ort)
    for kernel, name in ((Kernel.INTEGER, "integer"), (Kernel.FLOAT, "float"), (Kernel.WEIGHT_ONLY, "float")):
        expected = ort.cost_model.layer_ns(layer.shape, name)
        assert costs_of(["latency-ns"], layer, held("int8", kernel=kernel), where)["latency-ns"] == expected
    several = replace(layer, images=3)
    assert costs_of(["latency-ns"], several, held("int8"), where)["latency-ns"] == pytest.approx(
        3 * (ort.cost_model.layer_ns(layer.shape, "integer") or 0)
    )


def test_bits_follow_the_target() -> None:
    layer, how = mobilenet_v1()[2], held("fixp4")
    for name in ("ort", "cim"):
        counted = costs_of(["bits"], layer, how, Setting(target(name)))["bits"]
        assert counted == stored_bits(layer, how, dyadic=name == "cim")


@pytest.mark.parametrize(
    ("name", "how", "where", "error", "text"),
    [
        ("bit", held("int8"), Setting(), BudgetError, "no cost of layers is called 'bit'"),
        ("bits", held("int99"), Setting(), FormatError, "int99"),
        ("energy-pj", held("int8"), Setting(), TargetError, "needs a target"),
        ("energy-pj", held("int8"), Setting(target("ort")), TargetError, "not known for 'ort'"),
        ("energy-pj", LayerFormat(), Setting(target("cim")), TargetError, "on floats"),
        ("energy-pj", held("posit8"), Setting(target("cim")), TargetError, "no int8 image"),
        ("latency-ns", held("int8"), Setting(target("cim")), TargetError, "no table of times"),
        (
            "latency-ns",
            held("int4", kernel=Kernel.NBITS),
            Setting(target("ort")),
            TargetError,
            "has no time for",
        ),
    ],
)
def test_what_cannot_be_counted_is_named(
    name: str, how: LayerFormat, where: Setting, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        costs_of([name], mobilenet_v1()[0], how, where)


def test_every_cost_tells_its_unit_and_source() -> None:
    assert all(cost.name == name and cost.source for name, cost in COSTS.items())
    assert {c.name for c in COSTS.values() if not c.unit} == {"ace", "acev2"}


def test_products_in_float8_are_eight_by_eight_bits() -> None:
    """Codes expand once; what is left at an output is one product of floats."""
    layer = conv("pw", 128, 256, 28, 1)
    how = held("int4", 8, "group64", Kernel.FLOAT8)
    assert acev2_by_class(layer_operations(layer, how)) == {
        "mac": layer.macs * 64,
        "scale": layer.output_elements * 32 * 32,
    }


def test_what_paths_that_stay_apart_add() -> None:
    """By hand, rank 3 at 28 x 28 places: separate ones are requantised twice and summed, concatenated ones once."""
    layer, places, rank = conv("pw", 128, 256, 28, 1), 28 * 28, 3
    alone = acev2_by_class(layer_operations(layer, held("int4")))
    found = {}
    for lowering in ("separate", "concat-in"):
        plan = WeightPlan("int4", rank=rank, side_path="qera", side_lowering=lowering)
        work = acev2_by_class(layer_operations(layer, LayerFormat(plan, 8, Kernel.INTEGER)))
        found[lowering] = {name: work[name] - alone[name] for name in alone}
    first, second = places * rank * 128 * 8 * 8, places * 256 * rank
    assert found["concat-in"]["mac"] == first + second * 8 * 8
    assert found["separate"]["mac"] == first + second * 8 * 16
    assert found["concat-in"]["scale"] == places * rank * (8 * 32 + 32)
    assert found["separate"]["scale"] == places * (rank + 256) * (16 * 32 + 32) + places * 256 * 32
