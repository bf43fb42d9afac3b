"""A compiled file says nothing twice, and its numbers, nodes and shapes are those of the longer one."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, shape_inference

from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.lighten import lighten
from lpcompile.plan import Kernel
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import (
    LAYERS,
    SIDE_STORINGS,
    STORINGS,
    Storing,
    compiled,
    plan_by_hand,
    quantized_layer,
)

GROUPED = Storing("nf4", "group32", "ufloat8_e4m4")
NET = """g (float[{n},40,8,8] x) => (float[{n},40,8,8] y, float[{n},40,8,8] e)
    <float[40,40,3,3] w, float[40,40,1,1] v, float[40] b> {{
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=1, strides=[1,1]> (x, w, b)
    e = Exp (a)
    c = Conv <kernel_shape=[1,1], pads=[0,0,0,0], dilations=[1,1]> (a, v, b)
    y = Add (c, a)
}}"""


def net(n: int | str = 2) -> ModelProto:
    model = parse_model(NET.format(n=n))
    for node in model.graph.node:
        node.name = f"stage/{node.output[0]}"
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    plan_by_hand(graph, ["x", "a", "c", "y"], storing=GROUPED, elementwise=["stage/y"])
    return compiled(graph)


def lightened(model: ModelProto) -> ModelProto:
    light = ModelProto()
    light.CopyFrom(model)
    lighten(light)
    onnx.checker.check_model(light, full_check=True)
    return light


def shapes(model: ModelProto) -> dict[str, tuple[int, list[int | str]]]:
    types = {v.name: v.type.tensor_type for v in model.graph.value_info}
    return {n: (t.elem_type, [d.dim_value or d.dim_param for d in t.shape.dim]) for n, t in types.items()}


@pytest.mark.sweep
@pytest.mark.parametrize("kernel", [Kernel.INTEGER, Kernel.WEIGHT_ONLY])
@pytest.mark.parametrize("layer", LAYERS)
def test_numbers_of_every_layer_stay(layer: str, kernel: Kernel) -> None:
    for storing in (*STORINGS[::3], SIDE_STORINGS[0]):
        model = quantized_layer(layer, storing, kernel)
        light, feeds = lightened(model), random_feeds(model)
        assert light.ByteSize() < model.ByteSize()
        np.testing.assert_array_equal(run_model(light, feeds)["y"], run_model(model, feeds)["y"])
        assert all(c.different == 0 for c in check_layers(light, feeds))
        np.testing.assert_array_equal(evaluate(light, feeds)["y"], evaluate(model, feeds)["y"])


def test_nodes_and_tensors_keep_their_names_and_constants_get_short_ones() -> None:
    model = net()
    light = lightened(model)
    for a, b in zip(model.graph.node, light.graph.node, strict=True):
        assert (a.name, a.op_type, list(a.output)) == (b.name, b.op_type, list(b.output))
    (first, second) = [n for n in light.graph.node if n.op_type.startswith("QuantConv")]
    assert list(first.input)[3:9] == ["w0", "m0", "s0", "u0", "l1", "i1"]
    assert list(second.input)[3:9] == ["w1", "m1", "s1", "u0", "l1", "i1"]  # equal scalars are one
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, light))
    for a, b in zip(model.graph.node, light.graph.node, strict=True):
        for old, new in zip(a.input, b.input, strict=True):
            if old in before:
                np.testing.assert_array_equal(before[old], after[new])
    assert len({(v.dtype, v.tobytes()) for v in after.values() if not v.shape}) == sum(
        not v.shape for v in after.values()
    )


def test_calls_say_once_what_they_are() -> None:
    (first, second) = [n for n in lightened(net()).graph.node if n.op_type.startswith("QuantConv")]
    assert {a.name for a in first.attribute} == {"weight_shape", "group_size", "pads", "format"}
    assert {a.name for a in second.attribute} == {"weight_shape", "group_size", "format"}
    assert [p.key for p in first.metadata_props] == ["lpcompile.rounding"]


@pytest.mark.parametrize("n", [2, "n"])
def test_inference_gives_the_shapes_that_are_left_out(n: int | str) -> None:
    model = net(n)
    light = lightened(model)
    assert not light.graph.value_info
    assert shapes(shape_inference.infer_shapes(light, data_prop=True)).items() >= shapes(model).items()


def test_inference_is_not_shown_how_many_bytes_weights_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would follow each of them through the bodies: its time would be that of the weights."""
    seen, infer = list[ModelProto](), shape_inference.infer_shapes

    def noted(model: ModelProto, **options: bool) -> ModelProto:
        seen.append(model)
        return infer(model, **options)

    monkeypatch.setattr(shape_inference, "infer_shapes", noted)
    light = ModelProto()
    light.CopyFrom(net())
    lighten(light)
    assert not light.graph.value_info  # all is known without
    codes = [i for m in seen for i in m.graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.UINT8]
    assert codes
    assert not any(d.dim_value for c in codes for d in c.type.tensor_type.shape.dim)


def test_a_shape_that_inference_loses_stays_and_those_after_it_go() -> None:
    text = """g (float[n,4] x) => (float[n,4] y) <int64[2] s = {-1, 4}> {
        a = Reshape (x, s)  b = Neg (a)  c = Exp (b)  y = Neg (c) }"""
    model = quantized_layer("conv", Storing("int4"))
    other = parse_model(text)
    for name in "abc":
        other.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, ["n", 4]))
    other.functions.extend(model.functions)
    lighten(other)
    assert [v.name for v in other.graph.value_info] == ["a"]


def test_names_that_a_branch_reads_stay() -> None:
    output = "(float[2,6,8,8] o)"
    then, other = (f"{output} {{ o = {op} (s) }}" for op in ("Identity", "Neg"))
    branch = f"c = If (k) <then_branch = t () => {then}, else_branch = e () => {other}>"
    tensors = "(bool k, float[2,6,8,8] x) => (float[2,6,8,8] c, float[2,6,8,8] y) <float s = {2.0}>"
    text = f"g {tensors} {{ {branch} y = Neg (x) }}"
    model = parse_model(text, check=False)
    graph = net()
    call = next(n for n in graph.graph.node if n.domain == DOMAIN)
    call.input[1] = "s"
    graph.graph.node.extend(n for n in model.graph.node if n.op_type == "If")
    graph.graph.initializer.extend(model.graph.initializer)
    lighten(graph)
    assert next(n for n in graph.graph.node if n.domain == DOMAIN).input[1] == "s"
    assert "s" in {t.name for t in graph.graph.initializer}


def test_equal_constants_of_some_size_are_one() -> None:
    model = net()
    text = """g (float[2,6] x) => (float[2,6] c, float[2,6] d, float[2,6] e)
        <float[6,6] u = {%s}, float[6,6] v = {%s}, float[6,6] w = {%s}>
        { c = MatMul (x, u)  d = MatMul (x, v)  e = MatMul (x, w) }"""
    ones = ", ".join(["1.0"] * 36)
    other = parse_model(text % (ones, ones, ones.replace("1.0", "2.0", 1)))
    for tensor in other.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    other.functions.extend(model.functions)
    feeds = random_feeds(other)
    wanted = run_model(other, feeds)
    lighten(other)
    assert [list(n.input) for n in other.graph.node] == [["x", "u"], ["x", "u"], ["x", "w"]]
    for name, found in run_model(other, feeds).items():
        np.testing.assert_array_equal(found, wanted[name])


def test_sizes_that_inference_made_up_are_not_kept() -> None:
    other = parse_model("g (float[n,4] x, int64[2] s) => (float[p,4] y) { a = Reshape (x, s)  y = Neg (a) }")
    other.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["unk__7", "unk__8"]))
    other.functions.extend(quantized_layer("conv", Storing("int4")).functions)
    lighten(other)
    assert not other.graph.value_info
