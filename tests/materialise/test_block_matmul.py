"""4-bit weights that stay packed: the node that ONNX Runtime runs, its numbers, its bound, its sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from lpcompile.formats.base import resolve
from lpcompile.ir.block_matmul import OP, obstacle
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.inline import inlined
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.materialise import materialise
from lpcompile.plan import Kernel
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import to_rows
from lpcompile.runtime.checks import dead_initialisers, function_bodies
from lpcompile.runtime.layer_check import check_layers
from lpcompile.runtime.reference import evaluate
from tests.support import Array, parse_model, random_feeds, run_model
from tests.support_quant import Storing, compiled, op_types, optimised, plan_by_hand

INTEGERS = ("int4", "int4_narrow", "fixp4", "int3", "int2")
STORINGS = (
    *(Storing(f, g, "ufloat8_e4m4") for f in INTEGERS for g in ("channel", "group32")),
    Storing("int4"),
    Storing("fixp4", "group32"),
)
LAYERS = {
    "matmul": "y = MatMul (x, w)",
    "gemm": "y = Gemm (x, w, b)",
}


def graph(layer: str = "matmul", rows: int = 2, inputs: int = 160, opset: int = 17) -> LpGraph:
    constants = f"<float[{inputs},9] w" + (", float[9] b>" if layer == "gemm" else ">")
    text = f"g (float[{rows},{inputs}] x) => (float[{rows},9] y) {constants} {{ {LAYERS[layer]} }}"
    model = parse_model(text, opset=opset)
    model.graph.node[0].name = "layer"
    return LpGraph.from_proto(model)


def packed(storing: Storing, layer: str = "matmul", opset: int = 17, form: str = "functions") -> ModelProto:
    planned = plan_by_hand(graph(layer, opset=opset), [], storing=storing, kernel=Kernel.NBITS)
    return compiled(planned, form)


def weights_of(planned: LpGraph) -> Array:
    """(K, N), as stored."""
    tensor = planned.plan.layers["layer"].tensor
    assert tensor is not None
    return np.asarray(tensor.dequantize().T)


def feeds_of(model: ModelProto) -> dict[str, Array]:
    """Random, with a block of zeros and one that is far larger than the rest."""
    feeds = random_feeds(model)
    feeds["x"][0, :32] = 0
    feeds["x"][-1, 32:64] *= 100
    return feeds


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("storing", STORINGS, ids=str)
def test_the_runtime_runs_one_packed_node_with_the_level_written_down(
    storing: Storing, layer: str, tmp_path: Path
) -> None:
    found = optimised(packed(storing, layer), tmp_path)
    node = found.graph.node[0]
    assert op_types(found) in ([OP], [OP, "Add"])
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    wanted = {"K": 160, "N": 9, "bits": 4, "block_size": 32, "accuracy_level": 4}
    assert {k: attributes[k] for k in wanted} == wanted
    constants = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    assert constants[node.input[1]].shape == (9, 5, 16)
    assert constants[node.input[2]].size == 9 * 5


@pytest.mark.parametrize("storing", STORINGS, ids=str)
def test_the_packed_node_holds_exactly_what_was_decided(storing: Storing, tmp_path: Path) -> None:
    planned = plan_by_hand(graph(), [], storing=storing, kernel=Kernel.NBITS)
    found = optimised(compiled(planned), tmp_path)
    constants = {t.name: numpy_helper.to_array(t) for t in found.graph.initializer}
    codes, scales = (constants[name] for name in found.graph.node[0].input[1:3])
    nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(9, 5, 32).astype(np.float32) - 8
    held = nibbles * scales.reshape(9, 5, 1)
    np.testing.assert_allclose(held.reshape(9, -1).T, weights_of(planned), rtol=1e-6)


@pytest.mark.parametrize("opset", [13, 17, 21, 23])
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_agree_with_the_reference_within_half_a_step_of_every_input(layer: str, opset: int) -> None:
    model = packed(STORINGS[1], layer, opset)
    feeds = feeds_of(model)
    (check,) = check_layers(model, feeds)
    assert (check.compared, check.different) == (18, 0)
    assert 0 < check.largest_step < 1
    wanted, found = evaluate(model, feeds)["y"], run_model(model, feeds)["y"]
    assert np.abs(wanted - found).max() < 0.02 * np.abs(wanted).max()


def test_the_bound_is_that_of_the_float_product() -> None:
    planned = plan_by_hand(graph(), [], storing=STORINGS[1], kernel=Kernel.NBITS)
    model = compiled(planned)
    feeds, w = feeds_of(model), weights_of(planned).astype(np.float64)
    steps = np.abs(feeds["x"]).reshape(2, -1, 32).max(-1) / 127
    bound = steps / 2 @ np.abs(w).reshape(-1, 32, 9).sum(1)
    apart = np.abs(run_model(model, feeds)["y"] - feeds["x"].astype(np.float64) @ w)
    assert (apart <= 1.001 * bound).all()
    assert apart.max() > 0.01 * bound.max()  # inputs were rounded


def test_wrong_weights_show_in_the_check() -> None:
    model = packed(STORINGS[1])
    codes = next(t for t in model.graph.initializer if t.name.endswith("weight_codes"))
    feeds = feeds_of(model)
    body = model.functions[-1]
    table = next(a.t for n in body.node for a in n.attribute if a.name == "value" and a.t.dims[:1] == [256])
    table.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(table), 16)))
    assert list(codes.dims) == [9, 80]
    (check,) = check_layers(model, feeds)
    assert check.different
    assert check.largest_step > 1


def test_standard_form_is_the_same_and_needs_no_function() -> None:
    model = packed(STORINGS[1])
    flat = inlined(model)
    assert not flat.functions
    assert {n.domain for n in flat.graph.node} == {"", RUNTIME_DOMAIN}
    assert {o.domain for o in flat.opset_import} == {"", RUNTIME_DOMAIN}
    feeds = feeds_of(model)
    np.testing.assert_array_equal(run_model(flat, feeds)["y"], run_model(model, feeds)["y"])


def test_qdq_form_has_no_operator_of_the_runtime_and_keeps_within_the_bound() -> None:
    model, portable = packed(STORINGS[1]), packed(STORINGS[1], form="qdq")
    assert RUNTIME_DOMAIN not in {n.domain for f in portable.functions for n in f.node}
    feeds = feeds_of(model)
    found, wanted = run_model(portable, feeds)["y"], run_model(model, feeds)["y"]
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("storing", STORINGS, ids=str)
def test_its_bytes_are_those_of_the_packed_initialisers(storing: Storing) -> None:
    planned = plan_by_hand(graph(), [], storing=storing, kernel=Kernel.NBITS)
    result, weight_bytes = materialise(planned)
    model = result.to_proto()
    stored = {t.name: numpy_helper.to_array(t).nbytes for t in model.graph.initializer}
    assert weight_bytes["layer"] == sum(stored.values())
    assert stored["layer/weight_codes"] == 160 * 9 * resolve(storing.format).bits // 8
    assert dead_initialisers(model).ok
    assert function_bodies(model).ok


def test_the_call_says_how_inputs_are_rounded() -> None:
    (call,) = [n for n in packed(STORINGS[1]).graph.node if n.domain == DOMAIN]
    told = {p.key: p.value for p in call.metadata_props}
    assert told["lpcompile.kernel"] == "matmul-nbits"
    assert told["lpcompile.accuracy_level"] == "4"


def test_a_group_of_several_blocks_and_a_short_last_group(tmp_path: Path) -> None:
    found = graph()
    plan_by_hand(found, [], storing=Storing("int4", "group32"), kernel=Kernel.NBITS)
    assert not obstacle(resolve("int4"), "group64", 160)
    layer, weight = found.plan.layers["layer"], found.node("layer").inputs[1]
    assert weight is not None
    rows = to_rows("MatMul", weight.values)
    tensor = fit(rows, resolve("int4"), granularity="group", group_size=64, rule="absmax")
    plan = replace(layer, tensor=tensor, weight=replace(layer.weight, granularity="group64"))
    found.plan = found.plan.with_layer("layer", plan)
    model = compiled(found)
    assert op_types(optimised(model, tmp_path)) == [OP]
    (check,) = check_layers(model, feeds_of(model))
    assert check.different == 0


@pytest.mark.parametrize(
    ("fmt", "granularity", "inputs", "reason"),
    [
        ("posit4", "group32", 64, "posit4 is no 4-bit integer times a scale"),
        ("nf4", "channel", 64, "nf4 is no 4-bit integer times a scale"),
        ("float4_e2m1fn", "channel", 64, "float4_e2m1fn is no 4-bit integer times a scale"),
        ("uint4", "channel", 64, "uint4 is no 4-bit integer times a scale"),
        ("int8", "channel", 64, "int8 is no 4-bit integer times a scale"),
        ("posit4es1", "channel", 64, "posit4es1 is no 4-bit integer times a scale"),
        ("int4", "group32", 70, "its 70 inputs are no multiple of 32"),
        ("int4", "group16", 64, "groups of 16 inputs are no multiple of 32"),
    ],
)
def test_what_cannot_be_held_exactly_is_refused(fmt: str, granularity: str, inputs: int, reason: str) -> None:
    assert obstacle(resolve(fmt), granularity, inputs) == reason


def test_tables_of_channels_are_refused() -> None:
    assert obstacle(resolve("int4"), "channel", 64, codebooks=True)
    assert not obstacle(resolve("int4"), "channel", 64)
