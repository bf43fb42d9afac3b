from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.ir.graph import LpGraph
from lpcompile.plan import ActivationPlan
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import Array, compiled, op_types, optimised, plan_by_hand

X = "float[1,4,6,8] x"
# Nodes that fill y from x, and constants they read. Fed values are already codes times scale.
MOVES = {
    "DepthToSpace": ("y = DepthToSpace <blocksize=2> (x)", ""),
    "SpaceToDepth": ("y = SpaceToDepth <blocksize=2> (x)", ""),
    "Expand": ("y = Expand (x, s)", "int64[4] s = {2,4,6,8}"),
    "Flatten": ("y = Flatten (x)", ""),
    "Gather": ("y = Gather <axis=1> (x, s)", "int64[3] s = {3,0,3}"),
    "MaxPool": ("y = MaxPool <kernel_shape=[2,2], pads=[1,1,0,0], strides=[2,1]> (x)", ""),
    "MaxPool-dilated": ("y = MaxPool <kernel_shape=[2,2], dilations=[2,2], ceil_mode=1> (x)", ""),
    "Pad-zero": ("y = Pad (x, s)", "int64[8] s = {0,0,1,2,0,0,1,0}"),
    "Pad-value": ("y = Pad (x, s, v)", "int64[8] s = {0,0,1,2,0,0,1,0}, float v = {VALUE}"),
    "Pad-reflect": ('y = Pad <mode="reflect"> (x, s)', "int64[8] s = {0,0,1,2,0,0,1,0}"),
    "Pad-edge": ('y = Pad <mode="edge"> (x, s)', "int64[8] s = {0,0,1,2,0,0,1,0}"),
    "Pad-negative": ("y = Pad (x, s)", "int64[8] s = {0,0,-1,2,0,0,1,-2}"),
    "Reshape": ("y = Reshape (x, s)", "int64[2] s = {8,24}"),
    "Resize-scales": ('y = Resize <mode="nearest"> (x, , s)', "float[4] s = {1.0,1.0,2.0,1.5}"),
    "Resize-sizes": (
        'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
        " (x, , , s)",
        "int64[4] s = {1,4,9,5}",
    ),
    "Slice": (
        "y = Slice (x, a, b, c, d)",
        "int64[1] a = {5}, int64[1] b = {0}, int64[1] c = {3}, int64[1] d = {-2}",
    ),
    "Squeeze": ("y = Squeeze (x, s)", "int64[1] s = {0}"),
    "Tile": ("y = Tile (x, s)", "int64[4] s = {1,2,1,3}"),
    "Transpose": ("y = Transpose <perm=[0,2,3,1]> (x)", ""),
    "Unsqueeze": ("y = Unsqueeze (x, s)", "int64[1] s = {0}"),
}


def model_of(nodes: str, constants: str = "", outputs: str = "float y", opset: int = 17) -> ModelProto:
    model = parse_model(f"g ({X}) => ({outputs}) <{constants}> {{ {nodes} }}", opset=opset, check=False)
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def on_the_grid(plan: ActivationPlan, feeds: dict[str, Array]) -> dict[str, Array]:
    """Feeds rounded to numbers that the plan of x holds exactly."""
    codes = np.clip(np.rint(feeds["x"] / np.float32(plan.scale)) + plan.zero_point, 0, plan.code_max)
    return {"x": ((codes - plan.zero_point) * np.float32(plan.scale)).astype(np.float32)}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("opset", [13, 21])
def test_moves_run_on_codes_and_give_the_numbers_of_the_float_operator(
    move: str, opset: int, tmp_path: Path
) -> None:
    nodes, constants = MOVES[move]
    model = model_of(nodes, constants.replace("VALUE", "0.0"), opset=opset)
    graph = LpGraph.from_proto(model)
    feeds = random_feeds(model)
    plan_by_hand(graph, ["x", "y"], elementwise=["n_y"], ties={"y": "x"}, feeds=feeds)
    plan = graph.plan.activations["x"]
    if move == "Pad-value":  # a number on the grid, so that both pad with the same
        model = model_of(
            nodes, constants.replace("VALUE", repr(float(np.float32(plan.scale * 9)))), opset=opset
        )
        planned, graph = graph.plan, LpGraph.from_proto(model)
        graph.plan = planned
    result = compiled(graph)
    assert [op for op in op_types(result) if op not in ("QuantizeLinear", "DequantizeLinear")] == [
        model.graph.node[0].op_type
    ]
    assert "QuantizeLinear" in op_types(optimised(result, tmp_path))
    feeds = on_the_grid(plan, feeds)
    wanted, found = run_model(model, feeds)["y"], run_model(result, feeds)["y"]
    np.testing.assert_array_equal(found, wanted)
    assert np.unique(found).size > 20


def test_split_fills_both_outputs() -> None:
    model = model_of("y, z = Split <axis=1> (x)", outputs="float y, float z")
    graph = LpGraph.from_proto(model)
    plan_by_hand(graph, ["x", "y", "z"], elementwise=["n_y"], ties={"y": "x", "z": "x"})
    feeds = on_the_grid(graph.plan.activations["x"], random_feeds(model))
    wanted, found = run_model(model, feeds), run_model(compiled(graph), feeds)
    for name in ("y", "z"):
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("value", [0.0, 0.3, -0.4])
def test_padding_writes_the_code_nearest_to_the_value(value: float) -> None:
    """Zero is the zero point; other values the nearest code."""
    model = model_of("y = Pad (x, s, v)", f"int64[8] s = {{0,0,0,0,0,0,0,1}}, float v = {{{value}}}")
    graph = LpGraph.from_proto(model)
    plan_by_hand(graph, ["x", "y"], elementwise=["n_y"], ties={"y": "x"})
    plan = graph.plan.activations["x"]
    result = compiled(graph)
    pad = next(n for n in result.graph.node if n.op_type == "Pad")
    code = next(numpy_helper.to_array(t) for t in result.graph.initializer if t.name == pad.input[2])
    assert code.dtype == np.uint8
    assert code.shape == ()
    assert abs((int(code) - plan.zero_point) * plan.scale - value) <= plan.scale / 2 * (value != 0)


def concat(ties: dict[str, str]) -> tuple[ModelProto, LpGraph]:
    model = model_of("a = Neg (x)\n y = Concat <axis=1> (x, a)")
    graph = LpGraph.from_proto(model)
    plan_by_hand(graph, ["x", "a", "y"], elementwise=["n_y"], ties=ties)
    return model, graph


def test_concat_of_tensors_with_one_scale_moves_codes(tmp_path: Path) -> None:
    model, graph = concat({"a": "x", "y": "x"})
    result = compiled(graph)
    assert "Concat" in op_types(optimised(result, tmp_path))
    feeds = random_feeds(model)
    codes = run_model(result, feeds)["y"]
    step = graph.plan.activations["y"].scale
    assert np.abs(codes - run_model(model, feeds)["y"]).max() <= step / 2 * 1.001


def test_concat_of_tensors_with_scales_of_their_own_is_one_integer_node(tmp_path: Path) -> None:
    model, graph = concat({})
    result = compiled(graph)
    ops = op_types(optimised(result, tmp_path))
    assert "QLinearConcat" in ops
    assert "Concat" not in ops
    feeds = random_feeds(model)
    found, wanted = run_model(result, feeds)["y"], run_model(model, feeds)["y"]
    scales = graph.plan.activations
    assert (
        np.abs(found - wanted).max()
        <= (max(scales["x"].scale, scales["a"].scale) + scales["y"].scale) / 2 * 1.01
    )


def test_a_chain_of_moves_needs_no_floats_between() -> None:
    model = model_of("a = Transpose <perm=[0,2,3,1]> (x)\n b = Slice (a, s, e, ax)\n y = Reshape (b, r)",
        "int64[1] s = {0}, int64[1] e = {2}, int64[1] ax = {1}, int64[2] r = {-1, 4}")  # fmt: skip
    graph = LpGraph.from_proto(model)
    names = ["x", "a", "b", "y"]
    plan_by_hand(graph, names, elementwise=["n_a", "n_b", "n_y"], ties=dict.fromkeys(names[1:], "x"))
    assert op_types(compiled(graph)) == [
        "QuantizeLinear",
        "Transpose",
        "Slice",
        "Reshape",
        "DequantizeLinear",
    ]


# clamps


CLAMPS: dict[str, tuple[str, str, Callable[[Array], Array]]] = {
    "relu": ("y = Relu (x)", "", lambda x: np.maximum(x, 0)),
    "clip": ("y = Clip (x, a, b)", "float a = {-0.5}, float b = {0.75}", lambda x: np.clip(x, -0.5, 0.75)),
    "clip-above": ("y = Clip (x, , b)", "float b = {0.75}", lambda x: np.minimum(x, 0.75)),
    "clip-beyond": ("y = Clip (x, a, b)", "float a = {-900.0}, float b = {900.0}", lambda x: x),
}


@pytest.mark.parametrize("case", CLAMPS)
@pytest.mark.parametrize("held", ["uint8", "uint4"])
def test_a_clamp_that_stands_alone_clips_codes(case: str, held: str) -> None:
    nodes, constants, function = CLAMPS[case]
    model = model_of(nodes, constants)
    graph = LpGraph.from_proto(model)
    plan_by_hand(graph, {"x": held, "y": held}, elementwise=["n_y"], ties={"y": "x"})
    plan = graph.plan.activations["x"]
    result = compiled(graph)
    middle = [op for op in op_types(result) if op in ("Clip", "Relu")]
    assert middle == ([] if case == "clip-beyond" else ["Clip"])
    feeds = on_the_grid(plan, random_feeds(model))
    found = run_model(result, feeds)["y"]
    assert np.abs(found - function(feeds["x"])).max() <= plan.scale / 2 * 1.001
    if case == "relu":
        assert found.min() == 0


def test_a_clamp_that_the_range_implies_leaves_no_node() -> None:
    model = model_of("a = Abs (x)\n y = Relu (a)")
    graph = LpGraph.from_proto(model)
    plan_by_hand(graph, ["a", "y"], elementwise=["n_y"], ties={"y": "a"})
    assert graph.plan.activations["a"].zero_point == 0
    assert op_types(compiled(graph)) == ["Abs", "QuantizeLinear", "DequantizeLinear"]
