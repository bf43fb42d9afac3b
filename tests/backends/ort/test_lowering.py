"""What ONNX Runtime makes of an emitted graph: same graph, same speed."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel
from tests.support import parse_model, random_feeds, run_model
from tests.support_quant import (
    FLOAT_FORMATS,
    LAYERS,
    SIDE_STORINGS,
    STORINGS,
    Storing,
    anatomy,
    compiled,
    op_types,
    optimised,
    plan_by_hand,
    quantized_layer,
)

FUSED = {"conv": "QLinearConv", "gemm": "QGemm", "matmul": "QLinearMatMul"}
MATRICES = [name for name in LAYERS if not name.startswith("conv")]

NET = """g (float[1,5,12,12] x) => (float[1,9] y)
    <float[8,5,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[8,8,1,1] w3, float[8] b3,
     float[16,9] w4, float[9] b4, int64[2] shape = {1, 16}> {
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=8> (r, w2, b2)
    t = Relu (d)
    c = Conv <kernel_shape=[1,1]> (t, w3, b3)
    s = Add (c, r)
    m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (s)
    n = MaxPool <kernel_shape=[2,2], strides=[2,2]> (t)
    q = Concat <axis=1> (m, n)
    p = GlobalAveragePool (q)
    f = Reshape (p, shape)
    y = Gemm (f, w4, b4)
}"""


def net(storing: Storing, opset: int = 17) -> ModelProto:
    model = parse_model(NET, opset=opset)
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    tensors = [o for n in model.graph.node for o in n.output if o not in ("a", "d")]
    elementwise = ["n_r", "n_t", "n_s", "n_m", "n_n", "n_q", "n_p", "n_f"]
    ties = {"m": "s", "n": "s", "q": "s", "t": "s", "f": "p"}
    return compiled(
        plan_by_hand(
            LpGraph.from_proto(model), ["x", *tensors], storing=storing, elementwise=elementwise, ties=ties
        )
    )


@functools.cache
def int8_anatomy(
    make: Callable[..., ModelProto], *arguments: Any, folder: Path, level: str = "ORT_ENABLE_EXTENDED"
) -> list[tuple[Any, ...]]:
    return anatomy(optimised(make(*arguments[:1], Storing(), *arguments[1:]), folder, level))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimised")


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("storing", [*STORINGS, *SIDE_STORINGS], ids=str)
def test_a_layer_in_any_format_is_the_node_that_int8_is(layer: str, storing: Storing, folder: Path) -> None:
    graph = optimised(quantized_layer(layer, storing), folder)
    assert op_types(graph) == ["QuantizeLinear", FUSED[layer.split("-")[0]], "DequantizeLinear"]
    assert anatomy(graph) == int8_anatomy(quantized_layer, layer, folder=folder)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", MATRICES)
@pytest.mark.parametrize("kernel", [Kernel.FLOAT_OUT, Kernel.DYNAMIC])
@pytest.mark.parametrize("storing", [*STORINGS[:: len(STORINGS) // 5], SIDE_STORINGS[0]], ids=str)
def test_a_matrix_with_float_results_is_one_integer_node(
    layer: str, kernel: Kernel, storing: Storing, folder: Path
) -> None:
    graph = optimised(quantized_layer(layer, storing, kernel), folder)
    static = ["QuantizeLinear", "QGemm" if layer.startswith("gemm") else "MatMulIntegerToFloat"]
    assert op_types(graph) == (static if kernel is Kernel.FLOAT_OUT else ["DynamicQuantizeMatMul"])
    assert anatomy(graph) == int8_anatomy(quantized_layer, layer, kernel, folder=folder)


@pytest.mark.parametrize("storing", [*STORINGS[:8], *(Storing(f) for f in FLOAT_FORMATS)], ids=str)
@pytest.mark.parametrize("layer", ["conv", "gemm", "matmul"])
def test_stored_weights_leave_the_float_layer_alone(layer: str, storing: Storing, folder: Path) -> None:
    """No silent MatMulNBits: the activations of a layer that stores its weights stay float."""
    graph = optimised(quantized_layer(layer, storing, Kernel.WEIGHT_ONLY), folder)
    assert op_types(graph) == [onnx.parser.parse_model(header(LAYERS[layer])).graph.node[0].op_type]


def header(text: str) -> str:
    return f'<ir_version: 8, opset_import: ["" : 17]>\n{text}'


def make_net(_name: str, storing: Storing, opset: int = 17) -> ModelProto:
    return net(storing, opset)


@pytest.mark.sweep
@pytest.mark.parametrize("storing", [*STORINGS, *SIDE_STORINGS], ids=str)
@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
def test_a_network_in_any_format_optimises_to_the_graph_of_the_int8_file(
    storing: Storing, level: str, folder: Path
) -> None:
    graph = optimised(net(storing), folder, level)
    assert anatomy(graph) == int8_anatomy(make_net, "net", folder=folder, level=level)


def test_nothing_of_the_network_stays_float(folder: Path) -> None:
    counts = op_types(optimised(net(Storing("posit4")), folder))
    assert counts.count("QLinearConv") == 3
    assert counts.count("QGemm") == 1
    assert counts.count("QuantizeLinear") == counts.count("DequantizeLinear") == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "GlobalAveragePool", "Gather", "BitShift"} & set(counts)


@pytest.mark.parametrize("opset", [13, 15, 18, 19, 21, 22, 23])
def test_every_opset_fuses_alike(opset: int, folder: Path) -> None:
    model = net(Storing("int4", "group32", "ufloat8_e4m4"), opset)
    wanted = {
        "QLinearConv": 3,
        "QGemm": 1,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "DequantizeLinear": 1,
    }
    found = op_types(optimised(model, folder))
    assert {op: found.count(op) for op in wanted} == wanted


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_functions_are_inlined_at_every_level(level: str, folder: Path) -> None:
    graph = optimised(quantized_layer("conv", Storing("int4", "group32")), folder, level)
    assert DOMAIN not in {n.domain for n in graph.graph.node}


@pytest.mark.parametrize(
    "storing", [Storing(), Storing("nf4"), Storing("posit4", "group32", "ufloat8_e4m4")], ids=str
)
def test_four_bit_activations_cost_one_minimum_after_the_kernel(storing: Storing, folder: Path) -> None:
    graph = optimised(quantized_layer("conv", storing, held="uint4"), folder)
    assert op_types(graph) == ["QuantizeLinear", "QLinearConv", "Min", "DequantizeLinear"]


def test_the_optimised_graph_gives_what_the_file_gives_unoptimised() -> None:
    """A fusion that changed the numbers would show between the levels."""
    import onnxruntime as ort

    model = net(Storing("int4", "group32", "ufloat8_e4m4"))
    feeds = random_feeds(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        ["y"], feeds
    )[0]
    scale = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "y_scale")
    assert np.abs(run_model(model, feeds)["y"] - plain).max() <= 2 * scale
