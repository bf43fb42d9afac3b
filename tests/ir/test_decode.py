"""The bodies that unpack stored weights, run by ONNX Runtime, against the tensors that were stored."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.formats.base import resolve
from lpcompile.formats.packing import pack, packed_size
from lpcompile.ir.decode import Storage
from lpcompile.ir.domain import dequantize_weights
from lpcompile.ir.function import DOMAIN, FunctionBuilder
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.unpacking import add_function, taken_apart
from lpcompile.materialise.storage import image_rows, store_weights
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.quant.rows import from_rows
from tests.support import parse_model, run_model
from tests.support_quant import (
    FLOAT_FORMATS,
    SIDE_STORINGS,
    STORINGS,
    Storing,
    layer_graph,
    optimised,
    plan_layer,
)

UNPACKED = [
    *STORINGS,
    *SIDE_STORINGS,
    *(Storing(f) for f in FLOAT_FORMATS),
    Storing("float8_e5m2", scale_format="ufloat8_e4m4"),
]


def expanding_model(
    layer: str, storing: Storing, opset: int = 17
) -> tuple[ModelProto, LayerPlan, tuple[int, ...], str]:
    """A model whose one output is the expanded weights of a layer, and the plan of the layer."""
    graph = layer_graph(layer, opset=opset)
    plan = plan_layer(graph, "layer", storing, Kernel.WEIGHT_ONLY)
    node = graph.node("layer")
    weight = node.inputs[1]
    assert weight is not None
    shape = weight.values.shape
    stored = store_weights(graph, "layer", node.op, plan, shape)
    axis = 0 if node.op == "Conv" else 1
    function = dequantize_weights(stored.storage, opset, len(shape), axis)
    add_function(graph, function)
    attributes = {k: v for k, v in stored.attributes.items() if k in function.attribute}
    call = graph.add_node(
        function.name, [*stored.values, *stored.shared], ["w_back"], domain=DOMAIN, attrs=attributes
    )
    (expanded,) = call.outputs
    assert expanded is not None
    graph.set_type(expanded, np.dtype(np.float32), shape)
    graph.add_output(expanded)
    model, op = graph.to_proto(), node.op
    layer_node = next(i for i, n in enumerate(model.graph.node) if n.name == "layer")
    del model.graph.node[layer_node], model.graph.input[:], model.graph.output[0]
    return model, plan, shape, op


@pytest.mark.sweep
@pytest.mark.parametrize("storing", UNPACKED, ids=str)
@pytest.mark.parametrize("layer", ["conv", "conv-even", "conv-depthwise", "conv-3d", "gemm", "gemm-even"])
def test_unpacked_weights_are_those_that_were_stored(layer: str, storing: Storing) -> None:
    model, plan, shape, op = expanding_model(layer, storing)
    found = run_model(model)["w_back"]
    if storing.row_tables:
        w8, scale = image_rows(plan)
        assert len(np.unique(w8)) > 16  # several tables, not one
        rows = (w8 * scale[:, None]).astype(np.float32)
    else:
        assert plan.tensor is not None
        rows = plan.tensor.dequantize()
    np.testing.assert_array_equal(found, from_rows(op, rows, shape))


@pytest.mark.parametrize("storing", UNPACKED, ids=str)
def test_unpacking_is_done_when_the_model_is_loaded(storing: Storing, tmp_path: Path) -> None:
    model, *_ = expanding_model("conv", storing)
    folded = optimised(model, tmp_path, "ORT_ENABLE_BASIC")
    assert not folded.graph.node
    constant = next(t for t in folded.graph.initializer if t.name == "w_back")
    np.testing.assert_array_equal(numpy_helper.to_array(constant), run_model(model, {})["w_back"])


@pytest.mark.parametrize("opset", [13, 14, 18, 19, 21, 22, 23])
@pytest.mark.parametrize("storing", [Storing("int4", "group32", "ufloat8_e4m4"), Storing("nf4")], ids=str)
def test_bodies_are_written_for_the_opset_of_the_model(opset: int, storing: Storing) -> None:
    model, plan, shape, op = expanding_model("conv", storing, opset)
    assert plan.tensor is not None
    assert {o.version for f in model.functions for o in f.opset_import if not o.domain} == {opset}
    np.testing.assert_array_equal(run_model(model)["w_back"], from_rows(op, plan.tensor.dequantize(), shape))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 33])
def test_unpack_gives_as_many_codes_as_there_are(count: int, bits: int) -> None:
    codes = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
    codes[-1] = 2**bits - 1  # the highest bits of a word: 56 of them where codes have 7
    body = FunctionBuilder("Unpack", ["packed"], ["y"], "")
    first = body.constant(np.array([0], np.int64))
    body.op("Slice", taken_apart(body, "packed", bits), first, body.attribute("count"), out="y")
    model = parse_model(
        f"g (uint8[{packed_size(count, bits)}] packed) => (int32[{count}] y) {{ y = Cast <to=6> (packed) }}",
        check=False,
    )
    graph = LpGraph.from_proto(model)
    graph.remove(graph.nodes()[0])
    add_function(graph, body.build(17))
    graph.add_node("Unpack", [graph.value("packed")], ["y"], domain=DOMAIN, attrs={"count": [count]})
    packed = np.frombuffer(pack(codes, bits), np.uint8)
    np.testing.assert_array_equal(run_model(graph.to_proto(), {"packed": packed})["y"], codes)


@pytest.mark.parametrize(
    ("storage", "label", "inputs"),
    [
        (Storage(resolve("int8")), "int8", ["codes", "w_scale"]),
        (Storage(resolve("nf4"), scale_codes="s8"), "w4_s8", ["codes", "scale_codes", "scale_unit"]),
        (Storage(resolve("int4"), group_size=32), "w4_g", ["codes", "multipliers", "w_scale"]),
        (Storage(resolve("int3"), group_size=32), "w3_g", ["codes", "multipliers", "w_scale"]),
        (Storage(resolve("int6"), scale_codes="s8"), "w6_s8", ["codes", "scale_codes", "scale_unit"]),
        (Storage(resolve("int4"), row_tables=True), "w4_rows", ["codes", "tables", "w_scale"]),
    ],
)  # fmt: skip
def test_a_storage_names_itself_and_its_inputs(storage: Storage, label: str, inputs: list[str]) -> None:
    assert storage.label == label
    assert storage.inputs == inputs


@pytest.mark.parametrize(
    ("layer", "straddling"), [("conv", True), ("conv-even", False), ("gemm-even", False)]
)
def test_only_an_odd_row_is_looked_up_code_by_code(layer: str, straddling: bool) -> None:
    model, *_ = expanding_model(layer, Storing("fixp4", "group32"))
    assert any("_odd" in f.name for f in model.functions) == straddling
    assert ("GroupWeightsOdd" if straddling else "GroupWeights") in {f.name for f in model.functions}
