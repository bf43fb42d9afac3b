"""What a plan costs, by hand: integers at their widths, one requantisation each, and what changes between the kinds."""

import pytest

from lpcompile.accounts.entries import Account
from lpcompile.accounts.graphs import float_account
from lpcompile.accounts.planned import planned_account
from lpcompile.assignment.requantisation import (
    DYADIC,
    DYADIC8,
    FLOAT,
    POWER_OF_TWO,
    Requantisation,
    targets_own,
)
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from tests.accounts.planned_networks import entries, graph_of, layer, plan

M, A, C = 1024, 32, 32  # a float product, an addition, a comparison of 32 bits
CHAIN = """
    g (float[1,3,8,8] x) => (float[1,5,8,8] y)
    <float[4,3,1,1] w, float[4] b, float[5,4,1,1] v> {
        [first] t = Conv (x, w, b)
        [clamp] r = Relu (t)
        [second] y = Conv (r, v)
    }"""


def chain(inner: str = "uint8", weights: str = "int8") -> LpGraph:
    graph = graph_of(CHAIN)
    layers = {"first": layer(weights), "second": layer(weights)}
    graph.plan = plan(layers, {"x": "uint8", "r": inner, "y": "uint8"}, ("clamp",))
    return graph


SCALED = [
    (FLOAT, M + A),
    (DYADIC, 16 * 32 + 32),
    (DYADIC8, 8 * 32 + 32),
    (POWER_OF_TWO, 32 + 32),
]


@pytest.mark.parametrize(("own", "each"), SCALED)
def test_a_requantisation_is_counted_once_and_takes_the_clamp_in(own: Requantisation, each: int) -> None:
    """64 pixels of 3, 4 and 5 channels."""
    found = entries(planned_account(chain(), own))
    assert list(found) == ["x/quantize", "first", "second", "y/dequantize"]
    assert found["x/quantize"].by_class() == {"scale": 192 * (M + A), "compare": 192 * 2 * C}
    assert found["first"].by_class() == {"mac": 256 * 3 * 64, "scale": 256 * each, "compare": 256 * 2 * C}
    assert found["second"].by_class() == {"mac": 320 * 4 * 64, "scale": 320 * each, "compare": 320 * 2 * C}
    assert found["y/dequantize"].by_class() == {"scale": 320 * (M + 8)}


def test_widths_of_weights_and_activations_count() -> None:
    found = entries(planned_account(chain("uint4", "int4")))
    assert found["first"].by_class()["mac"] == 256 * 3 * 4 * 8
    assert found["second"].by_class()["mac"] == found["second"].ace == 320 * 4 * 4 * 4
    shifts = entries(planned_account(chain("uint4", "pot4")))
    assert shifts["second"].by_class()["shift_mac"] == 320 * 4 * 4
    assert shifts["second"].ace == 320 * 4 * 4 * 4


def test_bytes_of_codes_are_those_of_their_bytes() -> None:
    """Codes of 4 bits are held in 8; weights as they are stored, scales and bias as floats."""
    found = entries(planned_account(chain("uint4", "int4")))
    assert found["x/quantize"].bytes == 192 * 5
    assert found["first"].bytes == 192 + 256 + (12 // 2 + 4 * 4) + 16
    assert found["second"].bytes == 256 + 320 + (20 // 2 + 4 * 5)


def test_without_codes_or_without_a_plan_layers_count_as_floats() -> None:
    graph = graph_of(CHAIN)
    floats = float_account(graph)
    assert planned_account(graph) == floats
    graph.plan = plan({"first": layer("int8"), "second": layer("int8")}, {})
    bare = {name: type(p)(Kernel.WEIGHT_ONLY, p.weight) for name, p in graph.plan.layers.items()}
    graph.plan = plan(bare, {})
    assert planned_account(graph) == floats


def test_weights_that_become_floats_multiply_floats_and_move_few_bytes() -> None:
    graph = graph_of(CHAIN)
    graph.plan = plan({"first": layer("int8", Kernel.WEIGHT_ONLY)}, {})
    found, floats = entries(planned_account(graph)), entries(float_account(graph))
    assert found["first"].work == floats["first"].work
    assert found["first"].ace == 256 * 3 * 8 * 32
    assert found["first"].bytes == floats["first"].bytes - 4 * 12 + 12 + 4 * 4


@pytest.mark.parametrize(("kernel", "each"), [
    (Kernel.DYNAMIC, {"scale": M + A, "compare": 4 * C}), (Kernel.NBITS, {"scale": M + A, "compare": C}),
])  # fmt: skip
def test_ranges_measured_at_run_time_cost_their_measuring(kernel: Kernel, each: dict[str, int]) -> None:
    graph = graph_of("g (float[2,64] x) => (float[2,7] y) <float[64,7] w> { [m] y = MatMul (x, w) }")
    graph.plan = plan({"m": layer("int4", kernel, "group32")}, {})
    found = entries(planned_account(graph))
    assert found["m/quantize"].by_class() == {k: 128 * v for k, v in each.items()}
    assert found["m"].by_class()["mac"] == 128 * 7 * 4 * 8


def test_sums_of_a_layer_that_gives_floats_are_scaled_without_a_clip() -> None:
    graph = graph_of("g (float[2,64] x) => (float[2,7] y) <float[64,7] w> { [m] y = MatMul (x, w) }")
    graph.plan = plan({"m": layer("int8", Kernel.FLOAT_OUT)}, {"x": "uint8"})
    found = entries(planned_account(graph, DYADIC))
    assert found["m"].by_class() == {"mac": 128 * 7 * 64, "scale": 14 * M}
    assert found["m"].bytes == 128 + 4 * 14 + 64 * 7 + 4 * 7


BETWEEN = """
    g (float[1,4,6,6] x) => (float[1,4,{side},{side}] z) <float[4,4,1,1] w, float[4,4,1,1] v {more}> {{
        [first] a = Conv (x, w)
        {node}
        [last] z = Conv (b, v)
    }}"""


def between(
    node: str,
    side: int = 6,
    more: str = "",
    own: Requantisation = FLOAT,
    *,
    tables: bool = False,
    floats: str = "z",
) -> Account:
    """A node `[n] b = ...` of `a` on codes between two layers; tensors named in `floats` have no plan."""
    graph = graph_of(BETWEEN.format(node=node, side=side, more=more))
    names = {v.name for n in graph.nodes() for v in n.outputs if v is not None} - {"z", *floats}
    layers = {"first": layer("int8"), "last": layer("int8", Kernel.FLOAT_OUT)}
    inner = tuple(n.name for n in graph.nodes() if n.name not in layers)
    graph.plan = plan(layers, dict.fromkeys((*names, "x"), "uint8"), inner, {"b": 2.0})
    return planned_account(graph, own, tables=tables)


def two(own: Requantisation) -> int:
    return own.multiply(8).acev2


@pytest.mark.parametrize("own", [FLOAT, DYADIC, DYADIC8, POWER_OF_TWO])
def test_nodes_on_codes(own: Requantisation) -> None:
    """One rounding each: 144 outputs; operands of 8 bits."""

    def of(node: str, **options: int | str) -> dict[str, float]:
        return entries(between(node, own=own, **options))["n"].by_class()  # type: ignore[arg-type]

    clip = 144 * 2 * C
    assert of("[n] b = Add (a, a)") == {"scale": 144 * 2 * two(own), "residual": 144 * 2 * A, "compare": clip}
    requantised = own.multiply(16).acev2 + A
    product = {"other": 144 * 64, "scale": 144 * requantised, "compare": clip}
    assert of("[n] b = Mul (a, a)") == product
    norm = {"norm": 144 * (two(own) + A), "compare": clip}
    assert of("[n] b = Mul (a, s)", more=", float[4,1,1] s") == norm
    pooled = {"pool": 36 * 3 * A, "scale": 36 * (own.multiply().acev2 + A), "compare": 36 * 2 * C}
    assert of("[n] b = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a)", side=3) == pooled
    whole = {"pool": 4 * 35 * A, "scale": 4 * (own.multiply().acev2 + A), "compare": 4 * 2 * C}
    assert of("[n] b = GlobalAveragePool (a)", side=1) == whole


def test_moves_on_codes_cost_nothing_and_largest_numbers_their_comparisons() -> None:
    graph = graph_of(BETWEEN.format(
        node="[p] q = MaxPool <kernel_shape = [2, 2]> (a)  [n] b = Transpose <perm = [0, 1, 3, 2]> (q)", side=5, more=""
    ))  # fmt: skip
    layers = {"first": layer("int8"), "last": layer("int8", Kernel.FLOAT_OUT)}
    graph.plan = plan(layers, dict.fromkeys("xaqb", "uint8"), ("p", "n"))
    found = entries(planned_account(graph))
    assert found["p"].by_class() == {"compare": 100 * 3 * 8}
    assert (found["n"].by_class(), found["n"].bytes) == ({}, 200)


@pytest.mark.parametrize(("tables", "expected"), [
    (False, {"scale": 144 * (M + A), "compare": 144 * 2 * C}), (True, {}),
])  # fmt: skip
def test_a_concat_scales_operands_of_another_scale(tables: bool, expected: dict[str, int]) -> None:
    graph = graph_of("""
        g (float[1,4,6,6] x) => (float[1,2,6,6] z) <float[4,4,1,1] w, float[4,4,1,1] u, float[2,8,1,1] v> {
            [first] a = Conv (x, w)
            [other] c = Conv (x, u)
            [n] b = Concat <axis = 1> (a, c)
            [last] z = Conv (b, v)
        }""")
    layers = {"first": layer("int8"), "other": layer("int8"), "last": layer("int8", Kernel.FLOAT_OUT)}
    graph.plan = plan(layers, dict.fromkeys("xacb", "uint8"), ("n",), {"a": 0.5})
    account = planned_account(graph, tables=tables)
    assert entries(account)["n"].by_class() == expected
    assert account.free_operations == (144 if tables else 0)
    assert [e.node for e in account.entries].count("x/quantize") == 1  # for both readers


def test_clamps_alone_compare_codes_where_the_range_leaves_them_something() -> None:
    graph = graph_of(BETWEEN.format(
        node="[p] q = Transpose (a)  [n] b = Clip (q, low, high)", side=6,
        more=", float low = {0.0}, float high = {100.0}"
    ).replace("float[1,4,6,6] z", "float[6,4,4,1] z").replace("float[4,4,1,1] v", "float[4,6,1,1] v"))  # fmt: skip
    layers = {"first": layer("int8"), "last": layer("int8", Kernel.FLOAT_OUT)}
    graph.plan = plan(layers, dict.fromkeys("xaqb", "uint8"), ("p", "n"))
    assert entries(planned_account(graph))["n"].by_class() == {
        "compare": 144 * 8
    }  # 100 alone: codes are 0 to 255


def test_functions_are_tables_or_float_between_codes() -> None:
    looked_up = between("[n] b = Tanh (a)", tables=True)
    assert entries(looked_up)["n"].by_class() == {}
    assert looked_up.free_operations == 144
    assert entries(between("[n] b = Sigmoid (a)"))["n"].by_class() == {}
    computed = entries(between("[n] b = Tanh (a)"))["n"].by_class()
    tanh = 4 * M + 4 * A + 32 + 3 * A + M
    assert computed == {"scale": 144 * (8 + M + M + A), "activation": 144 * tanh, "compare": 144 * 2 * C}


def test_a_function_of_several_nodes_is_one_table() -> None:
    """x * Sigmoid(x); the Sigmoid is looked up with it."""
    found = between("[s] g = Sigmoid (a)  [n] b = Mul (a, g)", tables=True, floats="g")
    assert [e.node for e in found.entries] == ["x/quantize", "first", "n", "last"]
    assert found.free_operations == 144


def test_codes_that_somebody_reads_as_floats_are_made_floats_once() -> None:
    graph = graph_of("""
        g (float[1,3,8,8] x) => (float[1,5,8,8] y, float[1,4,8,8] e, float[1,4,8,8] l)
        <float[4,3,1,1] w, float[5,4,1,1] v> {
            [first] t = Conv (x, w)
            [second] y = Conv (t, v)
            [exp] e = Exp (t)
            [log] l = Log (t)
        }""")
    layers = {"first": layer("int8"), "second": layer("int8", Kernel.FLOAT_OUT)}
    graph.plan = plan(layers, {"x": "uint8", "t": "uint8"})
    found = entries(planned_account(graph))
    assert list(found) == ["x/quantize", "first", "t/dequantize", "second", "exp", "log"]
    assert found["t/dequantize"].bytes == 256 * 5


def test_a_target_says_what_it_requantises_by() -> None:
    assert (targets_own(dyadic=True), targets_own(dyadic=False)) == (DYADIC, FLOAT)
