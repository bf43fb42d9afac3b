"""One readable call a layer: names, metadata, types, clamps, and every way a tensor can be read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.materialise import materialise
from lpcompile.plan import Kernel
from lpcompile.runtime.checks import dead_initialisers
from lpcompile.runtime.layer_check import check_layers
from tests.support import constants_of, parse_model, random_feeds, run_model
from tests.support_quant import (
    LAYERS,
    SIDE_STORINGS,
    STORINGS,
    Storing,
    compiled,
    layer_graph,
    op_types,
    plan_by_hand,
    quantized_layer,
)

# A Conv gives integers, or runs on floats with stored weights.
KERNELS = [
    *((layer, kernel) for layer in LAYERS for kernel in (Kernel.INTEGER, Kernel.WEIGHT_ONLY)),
    *(
        (layer, kernel)
        for layer in LAYERS
        if "conv" not in layer
        for kernel in (Kernel.FLOAT_OUT, Kernel.DYNAMIC)
    ),
]
CONV = "kernel_shape=[3,3], pads=[1,1,1,1]"
WEIGHTS = "float[6,5,3,3] w1, float[6] b1, float[6,6,3,3] w2, float[6] b2"


def graph_of(
    nodes: str, outputs: str, constants: str = WEIGHTS, *, inputs: str = "float[1,5,8,8] x"
) -> LpGraph:
    model = parse_model(f"g ({inputs}) => ({outputs}) <{constants}> {{ {nodes} }}")
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    return graph


def lines(model: ModelProto) -> list[str]:
    """One line a node, calls included (loading a model would inline them)."""
    nodes = model.graph.node
    return [
        f"{', '.join(n.output)} = {n.domain + '.' * bool(n.domain)}{n.op_type}({', '.join(n.input)})"
        for n in nodes
    ]


def two_convs(
    between: str,
    tensors: Mapping[str, str] | Sequence[str],
    elementwise: Sequence[str] = (),
    *,
    output: str = "float[1,6,8,8] y",
    ties: dict[str, str] | None = None,
    constants: str = "",
    **options: Any,
) -> LpGraph:
    """Conv a, `between` that fills r, Conv y."""
    nodes = f"""a = Conv <{CONV}> (x, w1, b1)
        {between}
        y = Conv <{CONV}> (r, w2, b2)"""
    graph = graph_of(nodes, output, WEIGHTS + constants)
    return plan_by_hand(graph, tensors, elementwise=elementwise, ties=ties, **options)


# what is written


@pytest.mark.sweep
@pytest.mark.parametrize(("layer", "kernel"), KERNELS)
def test_every_model_is_valid_and_carries_nothing_dead(layer: str, kernel: Kernel) -> None:
    for storing in (*STORINGS[:: 3 if kernel is Kernel.INTEGER else 7], SIDE_STORINGS[0]):
        model = quantized_layer(layer, storing, kernel)  # checked by onnx.checker with full_check
        assert dead_initialisers(model).ok
        assert {t.name for t in model.graph.initializer if t.name in ("w", "b")} <= {
            "b"
        }  # no float weights stay
        calls = [n for nodes in (model.graph.node, *(f.node for f in model.functions)) for n in nodes]
        assert {f.name for f in model.functions} == {n.op_type for n in calls if n.domain == DOMAIN}
        assert {o.domain for o in model.opset_import} == {"", DOMAIN}


def test_a_layer_keeps_its_name_and_says_what_was_decided() -> None:
    model = quantized_layer("conv", Storing("nf4", "group32", "ufloat8_e4m4"))
    (call,) = [n for n in model.graph.node if n.domain == DOMAIN]
    assert call.name == "layer"
    assert {p.key: p.value for p in call.metadata_props} == {
        "lpcompile.kernel": "integer",
        "lpcompile.format": "nf4",
        "lpcompile.granularity": "group32",
        "lpcompile.scale_format": "ufloat8_e4m4",
        "lpcompile.rounding": "nearest",
    }
    attributes = {a.name: a for a in call.attribute}
    assert attributes["format"].s == b"nf4"
    assert attributes["granularity"].s == b"group32"


def test_a_layer_with_a_side_path_says_its_rank() -> None:
    model = quantized_layer("gemm", SIDE_STORINGS[0])
    (call,) = [n for n in model.graph.node if n.domain == DOMAIN]
    assert {p.key: p.value for p in call.metadata_props}["lpcompile.rank"] == "2"


def test_metadata_of_the_float_node_stays() -> None:
    graph = layer_graph("conv")
    graph.node("layer").metadata["origin"] = "stage1"
    model = compiled(plan_by_hand(graph, ["x", "y"]))
    (call,) = [n for n in model.graph.node if n.domain == DOMAIN]
    assert {p.key: p.value for p in call.metadata_props}["origin"] == "stage1"


def test_inner_tensors_are_declared_with_type_and_shape() -> None:
    graph = two_convs("r = Relu (a)", ["x", "r", "y"], ["n_r"])
    model = compiled(graph)
    declared = {v.name: v.type.tensor_type for v in model.graph.value_info}
    inner = {name for node in model.graph.node for name in node.output} - {"y"}
    assert set(declared) == inner == {"x_quantized", "r_quantized", "y_quantized"}
    for name, shape in (
        ("x_quantized", (1, 5, 8, 8)),
        ("r_quantized", (1, 6, 8, 8)),
        ("y_quantized", (1, 6, 8, 8)),
    ):
        assert declared[name].elem_type == TensorProto.UINT8
        assert tuple(d.dim_value for d in declared[name].shape.dim) == shape


def test_scales_and_zero_points_are_scalars_of_the_tie_group() -> None:
    graph = two_convs("r = Relu (a)", ["x", "a", "r", "y"], ["n_r"], ties={"r": "a"})
    constants = constants_of(compiled(graph))
    assert {"x_scale", "a_scale", "y_scale"} <= constants.keys()
    assert "r_scale" not in constants
    for name in ("x", "a", "y"):
        plan = graph.plan.activations[name]
        assert constants[f"{name}_scale"].shape == ()
        assert constants[f"{name}_scale"] == np.float32(plan.scale)
        assert constants[f"{name}_zero_point"].dtype == np.uint8
        assert constants[f"{name}_zero_point"] == plan.zero_point


@pytest.mark.parametrize(("storing", "parts"), [
    (Storing("int4"), {"weight_codes": (158,), "weight_scale": (7,)}),  # 315 codes, two a byte
    (Storing("int4", "group32", "ufloat8_e4m4"),
     {"weight_codes": (158,), "weight_multipliers": (7,), "weight_scale_codes": (7,),
      "weight_scale_unit": ()}),
    (Storing("int8"), {"weight_quantized": (7, 5, 3, 3), "weight_scale": (7,)}),
])  # fmt: skip
def test_weights_are_stored_packed_and_counted(storing: Storing, parts: dict[str, tuple[int, ...]]) -> None:
    graph = plan_by_hand(layer_graph("conv"), ["x", "y"], storing=storing)
    result, weight_bytes = materialise(graph)
    constants = constants_of(result.to_proto())
    found = {name.removeprefix("layer/"): array for name, array in constants.items() if "weight" in name}
    assert {name: array.shape for name, array in found.items()} == parts
    assert weight_bytes == {"layer": sum(array.nbytes for array in found.values())}


def test_the_float_graph_and_its_plan_stay_as_they_were() -> None:
    graph = two_convs("r = Relu (a)", ["x", "r", "y"], ["n_r"])
    before, plan = graph.to_proto().SerializeToString(deterministic=True), graph.plan
    first, second = compiled(graph), compiled(graph)
    compiled(graph, "qdq")
    assert graph.to_proto().SerializeToString(deterministic=True) == before
    assert graph.plan is plan
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


# clamps after layers


@pytest.mark.parametrize("clamp", ["Relu (a)", "Clip (a, low, high)"])
@pytest.mark.parametrize("held", ["uint8", "uint4"])
def test_a_clamp_whose_range_the_output_has_is_absorbed(clamp: str, held: str) -> None:
    constants = ", float low = {0.0}, float high = {900.0}"
    graph = two_convs(f"r = {clamp}", {"x": "uint8", "r": held, "y": "uint8"}, ["n_r"], constants=constants)
    assert graph.plan.activations["r"].zero_point == 0
    suffix = "_a4" if held == "uint4" else ""
    assert lines(compiled(graph)) == [
        "x_quantized = QuantizeLinear(x, x_scale, x_zero_point)",
        f"r_quantized = lpcompile.QuantConv_int8{suffix}(x_quantized, x_scale, x_zero_point,"
        " n_a/weight_quantized, n_a/weight_scale, r_scale, r_zero_point, n_a/bias_quantized)",
        "y_quantized = lpcompile.QuantConv_int8(r_quantized, r_scale, r_zero_point, n_y/weight_quantized,"
        " n_y/weight_scale, y_scale, y_zero_point, n_y/bias_quantized)",
        "y = DequantizeLinear(y_quantized, y_scale, y_zero_point)",
    ]  # fmt: skip


def test_a_clip_that_the_range_does_not_imply_clips_codes() -> None:
    """The range of r is shared with a tensor that reaches further."""
    nodes = f"""a = Conv <{CONV}> (x, w1, b1)
        c = Clip (a, low, high)
        d = Conv <{CONV}> (x, w1, b1)
        r = Add (c, d)
        y = Conv <{CONV}> (r, w2, b2)"""
    constants = WEIGHTS + ", float low = {-0.25}, float high = {0.5}"
    graph = graph_of(nodes, "float[1,6,8,8] y", constants)
    plan_by_hand(graph, ["x", "c", "d", "r", "y"], elementwise=["n_c", "n_r"], ties={"d": "c"})
    model = compiled(graph)
    assert "Clip" in op_types(model)
    clip = next(n for n in model.graph.node if n.op_type == "Clip")
    assert clip.name == "n_c"
    plan, stored = graph.plan.activations["c"], constants_of(model)
    low, high = (int(stored[n]) for n in clip.input[1:])
    assert (low, high) == (
        plan.zero_point + round(-0.25 / plan.scale),
        plan.zero_point + round(0.5 / plan.scale),
    )
    checks = check_layers(model, random_feeds(model))
    assert max(c.largest_step for c in checks) <= 1


def test_a_relu_over_a_range_with_negative_numbers_stays() -> None:
    graph = two_convs("r = Relu (a)", ["x", "a", "r", "y"], ["n_r"], ties={"r": "a"})
    assert graph.plan.activations["r"].zero_point > 0
    model = compiled(graph)
    assert op_types(model)[1:3] == ["QuantConv_int8", "Clip"]


def test_held_outputs_never_leave_four_bits() -> None:
    graph = two_convs("r = Relu (a)", {"x": "uint4", "r": "uint4", "y": "uint8"}, ["n_r"])
    model = compiled(graph)
    wide = {k: 5 * v for k, v in random_feeds(model).items()}
    shown = graph_showing(model, ["x_quantized", "x_quantized_1", "r_quantized"])
    found = run_model(shown, wide)
    assert max(found[n].max() for n in found if n.startswith("x_quantized_")) == 15
    assert found["r_quantized"].max() == 15


def graph_showing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    model = type(model).FromString(model.SerializeToString())
    types = {v.name: v for v in model.graph.value_info}
    model.graph.output.extend(types[n] for n in names if n in types)
    return model


# who reads a tensor


def with_a_float_reader() -> LpGraph:
    outputs = "float[1,6,8,8] y, float[1,6,8,8] e"
    return two_convs("r = Relu (a)\n e = Exp (r)", ["x", "r", "y"], ["n_r"], output=outputs)


def test_a_float_reader_finds_the_old_name() -> None:
    model = compiled(with_a_float_reader())
    exp = next(n for n in model.graph.node if n.op_type == "Exp")
    assert list(exp.input) == ["r"]
    (source,) = [n for n in model.graph.node if "r" in n.output]
    assert (source.op_type, list(source.input)) == (
        "DequantizeLinear",
        ["r_quantized", "r_scale", "r_zero_point"],
    )


@pytest.mark.parametrize("form", ["functions", "qdq"])
def test_a_float_reader_sees_quantised_numbers(form: str) -> None:
    graph = with_a_float_reader()
    codes = np.log(run_model(compiled(graph, form))["e"]) / graph.plan.activations["r"].scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-2)
    assert np.unique(np.rint(codes)).size > 30


def test_an_output_in_the_middle_keeps_its_name_and_its_reader_gets_codes() -> None:
    graph = two_convs("r = Relu (a)", ["x", "r", "y"], ["n_r"], output="float[1,6,8,8] y, float[1,6,8,8] r")
    model = compiled(graph)
    assert [o.name for o in model.graph.output] == ["y", "r"]
    call = next(n for n in model.graph.node if n.name == "n_y")
    assert call.input[0] == "r_quantized"
    found = run_model(model)["r"] / np.float32(graph.plan.activations["r"].scale)
    np.testing.assert_allclose(found, np.rint(found), atol=1e-4)


def test_a_tensor_that_a_branch_captures_stays_readable() -> None:
    output = "(float[1,6,8,8] o)"
    then, other = (f"{output} {{ o = {op} (r) }}" for op in ("Identity", "Neg"))
    branch = f"c = If (k) <then_branch = t () => {then}, else_branch = e () => {other}>"
    nodes = f"a = Conv <{CONV}> (x, w1, b1)\n r = Relu (a)\n {branch}\n y = Conv <{CONV}> (r, w2, b2)"
    graph = graph_of(nodes, "float[1,6,8,8] y, float[1,6,8,8] c", inputs="float[1,5,8,8] x, bool k")
    feeds = {"x": np.random.default_rng(0).normal(0, 1, (1, 5, 8, 8)).astype(np.float32), "k": np.array(True)}
    plan_by_hand(graph, ["x", "r", "y"], elementwise=["n_r"], feeds=feeds)
    for form in ("functions", "qdq"):
        model = compiled(graph, form)
        for k in (True, False):
            found = run_model(model, {**feeds, "k": np.array(k)})["c"]
            codes = found / np.float32(graph.plan.activations["r"].scale)
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
            assert (found.max() > 0) == k
            assert np.abs(codes).max() > 100


def test_layers_that_share_weights_are_stored_each_in_their_own_way() -> None:
    nodes = f"""a = Conv <{CONV}> (x, w2, b2)
        r = Relu (a)
        y = Conv <{CONV}> (r, w2, b2)"""
    constants = "float[6,6,3,3] w2, float[6] b2"
    graph = graph_of(nodes, "float[1,6,8,8] y", constants, inputs="float[1,6,8,8] x")
    plan_by_hand(graph, ["x", "r", "y"], elementwise=["n_r"], layers=["n_a"])
    model = compiled(graph)
    assert "w2" in constants_of(model)  # the second layer stayed float
    assert op_types(model) == ["QuantizeLinear", "QuantConv_int8", "DequantizeLinear", "Conv"]
    plan_by_hand(graph, ["x", "r", "y"], elementwise=["n_r"])
    model = compiled(graph)
    assert "w2" not in constants_of(model)
    assert all(c.different == 0 for c in check_layers(model, random_feeds(model)))


def test_an_input_read_by_two_layers_is_quantised_once() -> None:
    nodes = f"""a = Conv <{CONV}> (x, w1, b1)
        c = Conv <{CONV}> (x, w1, b1)
        y = Add (a, c)"""
    graph = graph_of(nodes, "float[1,6,8,8] y", "float[6,5,3,3] w1, float[6] b1")
    model = compiled(plan_by_hand(graph, ["x", "a", "c", "y"], elementwise=["n_y"]))
    assert op_types(model).count("QuantizeLinear") == 1
    assert op_types(model).count("QuantConv_int8") == 2


@pytest.mark.parametrize("layer", ["gemm", "matmul"])
@pytest.mark.parametrize("form", ["functions", "qdq"])
def test_a_dynamic_layer_keeps_its_bias(layer: str, form: str) -> None:
    """Against the float layer: 8 bits of weights and of inputs leave a few per cent."""
    graph = layer_graph(layer)
    feeds = random_feeds(graph.to_proto())
    wanted = run_model(graph.to_proto(), feeds)["y"]
    model = compiled(plan_by_hand(graph, [], kernel=Kernel.DYNAMIC), form)
    assert np.abs(run_model(model, feeds)["y"] - wanted).max() <= 0.03 * np.abs(wanted).max()


def test_transposed_convolutions_store_weights_and_run_on_floats() -> None:
    text = """g (float[1,7,4,5] x) => (float[1,6,N,M] y) <float[7,3,3,3] w, float[6] b> {
        y = ConvTranspose <kernel_shape=[3,3], strides=[2,2], group=1> (x, w, b) }""".replace(
        "7,3,3,3", "7,6,3,3"
    )
    model = parse_model(text, check=False)
    model.graph.node[0].name = "layer"
    for storing in (Storing("nf4"), Storing("int4", "group32", "ufloat8_e4m4"), Storing("float8_e4m3fn")):
        graph = plan_by_hand(LpGraph.from_proto(model), [], storing=storing, kernel=Kernel.WEIGHT_ONLY)
        result = compiled(graph)
        assert [t.split("_")[0] for t in op_types(result)] == ["DequantizeWeights", "ConvTranspose"]
        (check,) = check_layers(result, random_feeds(result))
        assert (check.compared, check.different) == (7 * 6 * 9, 0)
