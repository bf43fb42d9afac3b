"""The plan as an integer reference graph: what stands in the file, and that numpy's integers are ONNX Runtime's."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from lpcompile.errors import TargetError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.movement import data_inputs
from lpcompile.materialise.dyadic import materialise_dyadic
from lpcompile.plan import Kernel
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.runtime.checks import dead_initialisers
from lpcompile.runtime.layer_check import check_layers
from tests.materialise.test_functions import graph_of, lines, two_convs
from tests.support import random_feeds, run_model
from tests.support_quant import (
    LAYERS,
    SIDE_STORINGS,
    STORINGS,
    Storing,
    call_results,
    layer_graph,
    plan_by_hand,
)

POOLED = "a = Conv <kernel_shape=[3,3]> (x, w1, b1)"


def made(graph: LpGraph) -> tuple[ModelProto, DyadicNumbers]:
    result, _, numbers = materialise_dyadic(graph)
    proto = result.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert dead_initialisers(proto).ok
    return proto, numbers


def exact(graph: LpGraph, least_db: float = 25.0) -> tuple[ModelProto, DyadicNumbers]:
    """The reference graph: every call equals the integers, and the outputs are near those of the float graph."""
    proto, numbers = made(graph)
    feeds = random_feeds(proto)
    for node, found, wanted in call_results(proto, feeds):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted, err_msg=node.name)
    assert all(c.different == 0 for c in check_layers(proto, feeds))
    wanted_outputs, outputs = run_model(graph.to_proto(), feeds), run_model(proto, feeds)
    for name, a in wanted_outputs.items():
        noise = float(np.square(a - outputs[name]).sum())
        assert noise < float(np.square(a).sum()) * 10 ** (-least_db / 10), name
    return proto, numbers


def test_side_paths_are_refused_by_the_layer() -> None:
    graph = plan_by_hand(layer_graph("gemm"), ["x", "y"], storing=SIDE_STORINGS[0])
    with pytest.raises(TargetError, match="merge no side paths into weights") as told:
        materialise_dyadic(graph)
    assert told.value.where == "layer"


@pytest.mark.sweep
@pytest.mark.parametrize("storing", STORINGS, ids=str)
def test_every_way_to_store_weights(storing: Storing) -> None:
    for layer in ("conv", "gemm"):
        graph = plan_by_hand(layer_graph(layer), ["x", "y"], storing=storing)
        proto, numbers = exact(graph, least_db=0.0)
        rows = numbers.weights["layer"].rows
        plan = graph.plan.layers["layer"]
        assert plan.tensor is not None
        if not storing.row_tables:
            np.testing.assert_array_equal(rows, plan.tensor.int8_image()[0])
        assert numbers.weights["layer"].format == storing.format
        assert (numbers.weights["layer"].multipliers is not None) == plan.tensor.has_integer_groups
        assert not any(t.name.startswith("layer/weight_scale") for t in proto.graph.initializer)


@pytest.mark.parametrize("kernel", [Kernel.INTEGER, Kernel.FLOAT_OUT])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer(layer: str, kernel: Kernel) -> None:
    tensors = ["x", "y"] if kernel is Kernel.INTEGER else ["x"]
    proto, numbers = exact(plan_by_hand(layer_graph(layer), tensors, kernel=kernel))
    assert set(numbers.requants) == ({"layer"} if kernel is Kernel.INTEGER else set())
    call = next(n for n in proto.graph.node if n.name == "layer")
    told = {p.key: p.value for p in call.metadata_props}
    assert told["lpcompile.kernel"] == kernel.value
    assert told["lpcompile.format"] == "int8"


def test_sums_become_floats_on_the_host() -> None:
    graph = plan_by_hand(layer_graph("conv"), ["x"], kernel=Kernel.FLOAT_OUT)
    proto, _ = exact(graph)
    assert lines(proto) == [
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)",
        "y_accumulated = lpcompile.AccumulateConv_int8(x_quantized, layer/weight_quantized)",
        "y/scaled = DequantizeLinear(y_accumulated, layer/scale)",
        "y = Add(y/scaled, layer/bias)",
    ]
    types = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    assert types["y_accumulated"] == TensorProto.INT32


def test_weight_bytes_are_those_of_the_file() -> None:
    graph = plan_by_hand(layer_graph("conv"), ["x", "y"], storing=Storing("posit4"))
    result, weight_bytes, _ = materialise_dyadic(graph)
    stored = {t.name: len(t.raw_data) for t in result.to_proto().graph.initializer}
    roles = ("weight_codes", "multiplier", "shift")
    assert weight_bytes == {"layer": sum(stored[f"layer/{r}"] for r in roles)}


def test_four_bit_activations_stay_within_their_range() -> None:
    proto, numbers = exact(plan_by_hand(layer_graph("conv"), {"x": "uint4", "y": "uint4"}), least_db=8.0)
    assert numbers.requants["layer"].high == 15
    assert max(int(f.max()) for _, f, _ in call_results(proto)) <= 15


def test_a_clamp_is_part_of_its_layer() -> None:
    graph = two_convs(
        "r = Clip (a, lo, hi)", ["x", "r", "y"], ["n_r"], constants=", float lo = {-0.1}, float hi = {1.5}"
    )
    proto, numbers = exact(graph)
    assert [n.op_type for n in proto.graph.node][1:3] == ["DyadicConv_int8"] * 2
    plan, r = graph.plan.activations["r"], numbers.requants["n_a"]
    assert r.high == min(plan.code_max, plan.zero_point + round(1.5 / plan.scale))
    assert r.low == max(0, plan.zero_point - round(0.1 / plan.scale))


ELEMENTWISE = {
    "sum": ("r = Add (a, a2)", "DyadicAdd"),
    "difference": ("r = Sub (a, a2)", "DyadicAdd"),
    "product": ("r = Mul (a, a2)", "DyadicMul"),
    "table": ("r = Sigmoid (a)", "Lookup"),
    "number": ("r = Div (a, six)", "Lookup"),
    "norm": ("r = Mul (a, c)", "QuantNorm"),
    "batch norm": ("r = BatchNormalization (a, c, c, c, scale)", "QuantNorm"),
    "pool": ("r = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1]> (a)", "DyadicAveragePool"),
    "whole pool": (
        "r = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (a)",
        "DyadicAveragePool",
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ELEMENTWISE)
@pytest.mark.parametrize("clamp", [False, True], ids=["bare", "clamped"])
def test_work_without_weights(kind: str, clamp: bool) -> None:
    text, op = ELEMENTWISE[kind]
    constants = (
        "float[6] b3, float[6,5,3,3] w3, float[6,6,3,3] w2, float[6,5,3,3] w1, float[6] b1, float six = {6}"
    )
    constants += ", float[6,1,1] c" if kind == "norm" else ", float[6] c, float[6] scale"
    nodes = f"""a = Conv <pads=[1,1,1,1]> (x, w1, b1)
        a2 = Conv <pads=[1,1,1,1]> (x, w3, b3)
        {text}
        {"q = Relu (r)" if clamp else ""}
        y = Conv <pads=[1,1,1,1]> ({"q" if clamp else "r"}, w2)"""
    graph = graph_of(nodes, "float[1,6,8,8] y, float[1,6,8,8] a2", constants)
    tensors = ["x", "a", "a2", "q" if clamp else "r", "y"]
    plan_by_hand(graph, tensors, elementwise=["n_r", *(["n_q"] if clamp else [])])
    proto, numbers = exact(graph)
    (call,) = [n for n in proto.graph.node if n.name == "n_r"]
    assert call.op_type == op
    assert not any(n.op_type == "Relu" for n in proto.graph.node)
    wanted = tuple(graph.plan.activations[v.name].zero_point for v in data_inputs(graph.node("n_r")))
    assert numbers.input_zero_points["n_r"] == ((0,) if op == "Lookup" else wanted)
    if kind == "pool":
        assert numbers.requants["n_r"].m.shape == (1, 1, 8, 8)


def test_operands_of_a_concat_go_through_tables() -> None:
    nodes = """a = Conv <pads=[1,1,1,1]> (x, w1, b1)
        s = Sigmoid (a)
        r = Concat <axis=1> (a, s)
        y = Conv (r, w)"""
    constants = "float[6,5,3,3] w1, float[6] b1, float[4,12,1,1] w"
    graph = graph_of(nodes, "float[1,4,8,8] y", constants)
    plan_by_hand(graph, ["x", "a", "s", "r", "y"], elementwise=["n_s", "n_r"], ties={"r": "a"})
    proto, numbers = exact(graph)
    assert list(numbers.luts) == ["n_s", "n_r/requantize1"]
    assert not any(n.op_type == "DequantizeLinear" and "requant" in n.name for n in proto.graph.node)


def test_a_move_and_a_clamp_between_different_scales() -> None:
    """Decisions may be edited: what shares no scale is requantised."""
    nodes = """a = Conv <pads=[1,1,1,1]> (x, w1, b1)
        t = Relu (a)
        r = Transpose <perm=[0,1,3,2]> (t)
        y = Conv (r, w)"""
    constants = "float[6,5,3,3] w1, float[6] b1, float[4,6,1,1] w"
    graph = graph_of(nodes, "float[1,4,8,8] y, float[1,6,8,8] a", constants)
    plan_by_hand(graph, ["x", "a", "t", "r", "y"], elementwise=["n_t", "n_r"])
    proto, numbers = exact(graph)
    if graph.plan.activations["t"].scale != graph.plan.activations["a"].scale:
        assert "n_t" in numbers.luts
    assert [n.op_type for n in proto.graph.node].count("DequantizeLinear") == 2


def test_padding_pads_with_the_zero_point() -> None:
    graph = two_convs(
        "r = Pad (a, p)", ["x", "a", "r", "y"], ["n_r"],
        output="float[1,6,10,10] y", ties={"r": "a"}, constants=", int64[8] p = {0,0,1,1,0,0,1,1}",
    )  # fmt: skip
    exact(graph)


def test_the_float_graph_stays_as_it_is() -> None:
    graph = plan_by_hand(layer_graph("conv"), ["x", "y"])
    before = graph.to_proto().SerializeToString(deterministic=True)
    first = materialise_dyadic(graph)[0].to_proto().SerializeToString(deterministic=True)
    second = materialise_dyadic(graph)[0].to_proto().SerializeToString(deterministic=True)
    assert first == second
    assert graph.to_proto().SerializeToString(deterministic=True) == before
