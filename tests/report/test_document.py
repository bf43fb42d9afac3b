"""report.json, schema 1: every key, every layer, and figures that agree with the file they speak of."""

import json
import math
from typing import Any

import numpy as np
import onnx
import pytest

import lpcompile
from lpcompile.assignment.mac_energy import mac_of
from lpcompile.report.document import merged
from lpcompile.report.json import to_json
from lpcompile.runtime.compare import compare
from tests.networks import (
    FOUR_BIT,
    SHIPPED,
    TOYS,
    compiled_network,
    compiled_toy,
    shipped,
    shipped_data,
    toy,
    toy_calls,
    without_costs,
)
from tests.support import parse_model, run_model
from tests.support_quant import stored_bytes

LAYER_KEYS = [
    "name",
    "op",
    "macs",
    "weight_shape",
    "weight_format",
    "weight_granularity",
    "activation_format",
    "rounding",
    "rank",
    "sensitivity",
    "sqnr_db_local",
    "sqnr_db_end",
    "bits_per_weight",
    "weight_bytes",
    "ace",
    "acev2",
    "reason",
]
KEYS = {
    "": "schema tool created_with model target recipe warnings assumptions "
    "passes layers totals cost quality verification effort ledger ledger_basis",
    "cost": "set before after elementwise_share ace energy45nm_pj bytes_moved free_operations nodes uncounted",
    "effort": "level learned_by note",
    "ledger_basis": "calls of_calls samples outputs held_back seconds reason",
    "tool": "name version",
    "created_with": "command options seed versions",
    "model": "path sha256 opset inputs outputs",
    "totals": "macs weight_bytes file_bytes bits_per_weight ace acev2 acev2_layers energy45nm_pj posit_fraction "
    "posit_mac_fraction side_path_mac_fraction",
    "quality": "samples sqnr_db_output top1_agreement kl max_abs_error",
    "verification": "loads runs latency_ms bytes",
}
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@pytest.mark.sweep
@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_of_the_schema(name: str) -> None:
    report = json.loads(to_json(compiled_network(name, "int8").report))
    for path, keys in KEYS.items():
        found = report[path] if path else report
        assert set(keys.split()) <= set(found), path
    assert report["schema"] == 1
    assert report["tool"]["name"] == "lpcompile"
    assert set(report["verification"]["bytes"]) == {"float", "compiled"}
    assert (report["verification"]["loads"], report["verification"]["runs"]) == (True, True)
    for entry in report["passes"]:
        assert {"name", "seconds", "changes", "skips", "metrics"} <= set(entry)
        assert all({"node", "what", "before", "after"} == set(c) for c in entry["changes"])
        assert all({"node", "reason"} == set(s) and s["reason"] for s in entry["skips"])
        assert entry["seconds"] >= 0
    for row in report["layers"]:
        assert list(row) == LAYER_KEYS


@pytest.mark.sweep
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("name", SHIPPED)
def test_the_layers_are_those_of_the_model(name: str, recipe: str) -> None:
    """Names, order, shapes and multiplications, counted here from the float file."""
    model = onnx.shape_inference.infer_shapes(onnx.load(shipped(name)))
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in WEIGHTED and n.input[1] in weights]
    rows = compiled_network(name, recipe).report["layers"]
    assert [r["op"] for r in rows] == [n.op_type for n in nodes]
    assert [math.prod(r["weight_shape"]) for r in rows] == [math.prod(weights[n.input[1]]) for n in nodes]
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
              for v in (*model.graph.value_info, *model.graph.output)}  # fmt: skip
    for row, node in zip(rows, nodes, strict=True):
        assert node.name in ("", row["name"])
        if node.output[0] in shapes and shapes[node.output[0]]:
            out, weight = shapes[node.output[0]], weights[node.input[1]]
            products = math.prod(weight[1:]) if node.op_type == "Conv" else row["weight_shape"][0]
            assert row["macs"] == math.prod(out) * products


@pytest.mark.sweep
@pytest.mark.parametrize("emit", ["functions", "standard", "qdq"])
@pytest.mark.parametrize(
    "options",
    [
        {"recipe": "int8"},
        *({"recipe": "w4a8", "weight_format": f} for f in (*FOUR_BIT, "posit8", "float8_e4m3fn", "int3")),
        {"recipe": "w4a8", "group_size": 0},
        {"recipe": "w4a4"},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_weight_bytes_are_those_of_the_file(options: dict[str, Any], emit: str) -> None:
    for name in ("residual_add", "matmul_bias"):
        made = compiled_toy(name, emit=emit, effort=0, **options)  # any codes will do
        for row in made.report["layers"]:
            found = stored_bytes(made.model, row["name"])
            assert found > 0
            assert row["weight_bytes"] == pytest.approx(found, rel=0.02)
            assert row["bits_per_weight"] == pytest.approx(
                8 * found / math.prod(row["weight_shape"]), rel=0.02
            )
        total = made.report["totals"]["weight_bytes"]
        assert total == pytest.approx(
            sum(stored_bytes(made.model, r["name"]) for r in made.report["layers"]), rel=0.02
        )


@pytest.mark.sweep
@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
@pytest.mark.parametrize("name", SHIPPED)
def test_totals_are_the_sums_of_the_layers(name: str, recipe: str) -> None:
    made = compiled_network(name, recipe)
    layers, totals = made.report["layers"], made.report["totals"]
    for key in ("macs", "weight_bytes", "ace"):
        assert totals[key] == sum(r[key] for r in layers)
    assert totals["acev2_layers"] == sum(r["acev2"] for r in layers)
    nodes = made.report["cost"]["nodes"]["after"]
    assert totals["acev2"] == sum(sum(n["acev2"].values()) for n in nodes) > totals["acev2_layers"]
    weights = sum(math.prod(r["weight_shape"]) for r in layers)
    assert totals["bits_per_weight"] == pytest.approx(8 * totals["weight_bytes"] / weights)
    assert totals["file_bytes"] == len(made.model.SerializeToString())
    assert made.report["verification"]["bytes"]["compiled"] == totals["file_bytes"]
    assert made.report["verification"]["bytes"]["float"] == shipped(name).stat().st_size
    total = sum(onnx.numpy_helper.to_array(t).nbytes for t in made.model.graph.initializer)
    assert totals["weight_bytes"] <= total <= totals["file_bytes"]


@pytest.mark.parametrize("recipe", ["int8", "w4a8"])
def test_bits_of_four_and_eight(recipe: str) -> None:
    """The payload plus scales: 8 bits + 32 a channel; 4 bits + 4 a group of 32 + 8 a channel."""
    made = compiled_network("digits_resnet", recipe, effort=0)  # any codes will do
    for row in made.report["layers"]:
        weights = math.prod(row["weight_shape"])
        channels = row["weight_shape"][0] if row["op"] == "Conv" else row["weight_shape"][1]
        inputs = weights // channels
        groups = math.ceil(inputs / 32) if row["weight_granularity"].startswith("group") else 0
        bits = 8 * inputs + 32 if recipe == "int8" else 4 * inputs + 4 * groups + 8
        slack = 64 / weights  # odd codes fill a byte, one float unit for 8-bit scales
        assert row["bits_per_weight"] == pytest.approx(bits / inputs, abs=slack)
        assert row["ace"] == row["macs"] * (8 if recipe == "int8" else 4) * 8
        outputs = row["macs"] // inputs
        requantise = outputs * (32 * 32 + 32)  # a float product and a float addition an output
        scaled = outputs * (4 * 32 + 32) * (groups if groups > 1 else 0)
        assert row["acev2"] == row["ace"] + requantise + scaled


@pytest.mark.sweep
@pytest.mark.parametrize("name", TOYS)
def test_no_layer_is_float_without_a_reason(name: str) -> None:
    for recipe in ("fp32", "int8"):
        report = compiled_toy(name, recipe, costs=True).report
        assert report["layers"]
        for row in report["layers"]:
            assert row["reason"] or row["weight_format"] != "float32"


def test_layers_in_bodies_are_listed_as_left_alone() -> None:
    rows = compiled_toy("if_body", costs=True).report["layers"]
    inner = [r for r in rows if "control-flow body" in r["reason"]]
    assert [r["op"] for r in inner] == ["MatMul", "MatMul"]
    assert {r["weight_format"] for r in inner} == {"float32"}
    assert len(rows) == 3


def test_quality_is_that_of_the_held_back_samples() -> None:
    """Recomputed here: one call in eight, at least two, by their place in the data."""
    made = compiled_network("digits_resnet", "w4a8", effort=0)
    quality = made.report["quality"]
    assert quality["held_back"] is True
    with np.load(shipped_data("digits_resnet")) as data:
        assert 0 < quality["samples"] < len(data["image"])
    few = lpcompile.compile(toy("depthwise"), calibration=toy_calls("depthwise", 3), recipe="int8").report
    assert few["quality"]["held_back"] is False
    assert any("fewer than 4 calls" in w for w in few["warnings"])


@pytest.mark.sweep
@pytest.mark.parametrize("recipe", ["int8", "w4a8", "w4a4"])
def test_the_local_error_is_the_measured_one(recipe: str) -> None:
    """The estimate takes inputs as uncorrelated: on such inputs a network of one layer has that error."""
    model = parse_model("m (float[n, 64] x) => (float[n, 32] y) <float[64, 32] w> { y = MatMul (x, w) }")
    calls = [{"x": np.random.default_rng(i).normal(0, 1, (64, 64)).astype(np.float32)} for i in range(9)]
    made = lpcompile.compile(model, calibration=calls[:8], recipe=recipe)
    (row,) = made.report["layers"]
    measured = compare([(run_model(model, calls[8]), made.run(calls[8]))]).sqnr_db
    assert measured == pytest.approx(row["sqnr_db_local"], abs=1)


def test_the_command_can_be_typed_again() -> None:
    report = compiled_network("digits_resnet", "int8").report["created_with"]
    model = shipped("digits_resnet")
    data = model.with_name("digits_resnet.calib.npz")
    assert report["command"] == f"lpcompile {model} --target ort --calibration-data {data} --recipe int8"
    assert report["seed"] == 0
    assert {"lpcompile", "python", "onnx", "onnxruntime", "numpy"} <= set(report["versions"])


def test_a_recurrent_layer_is_listed_with_its_reason_and_not_counted() -> None:
    model = parse_model(
        """g (float[3,1,4] x) => (float[3,1,1,5] y) <float[1,20,4] w, float[1,20,5] r>
        { y = LSTM <hidden_size=5> (x, w, r) }"""
    )
    report = lpcompile.compile(model, recipe="int8").report
    (record,) = report["layers"]
    assert (record["op"], record["weight_format"]) == ("LSTM", "float32")
    assert record["reason"] == "its weights take fewer than 4096 bytes"
    assert report["totals"]["weight_bytes"] == 0


def test_reports_are_merged_table_by_table() -> None:
    report = {"totals": {"macs": 3}, "assumptions": [1], "target": "cim"}
    further = {"totals": {"energy_pj": 2.0}, "assumptions": [2], "machine": "m"}
    assert merged(report, further) == {
        "totals": {"macs": 3, "energy_pj": 2.0},
        "assumptions": [1, 2],
        "target": "cim",
        "machine": "m",
    }


@pytest.mark.thorough
def test_posits_are_counted_in_parameters_and_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers alike but for their rows; the model of a MAC is asked for the ratio alone."""
    without_costs(monkeypatch)
    for fmt in ("posit4", "fixp4"):
        made = lpcompile.compile(
            shipped("digits_resnet"),
            calibration=shipped_data("digits_resnet"),
            recipe="w4a8",
            weight_format=fmt,
            effort=0,
        )
        layers, totals = made.report["layers"], made.report["totals"]
        held = [r for r in layers if r["weight_format"] == "posit4"]
        macs = sum(r["macs"] for r in held)
        assert totals["posit_mac_fraction"] == macs / totals["macs"]
        if fmt == "fixp4":
            assert not held
            assert "mac_energy_overhead" not in totals
            continue
        assert totals["posit_fraction"] == 1
        inputs = {r["name"]: math.prod(r["weight_shape"][1:] if r["op"] == "Conv" else r["weight_shape"][:1])
                  for r in held}  # fmt: skip
        for key, size in (
            ("mac_energy_overhead", "macs"),
            ("mac_energy_overhead_by_parameters", "weight_shape"),
        ):
            posit, fixed = (
                sum(float(np.prod(r[size])) * mac_of(f, 8, inputs[r["name"]]).energy_fj() for r in held)
                for f in ("posit4", "fixp4")
            )
            assert totals[key] == pytest.approx(posit / fixed - 1)
        low, high = totals["mac_energy_overhead_range"]
        assert low < totals["mac_energy_overhead"] < high


def test_energies_at_45_nm_are_those_of_the_products_scales_and_clips() -> None:
    """int8 on uint8: 0.2 pJ and a 32-bit addition a MAC; a float product, an addition, two comparisons an output."""
    made = compiled_network("digits_resnet", "int8")
    found = {n["node"]: n["energy45nm_pj"] for n in made.report["cost"]["nodes"]["after"]}
    for row in made.report["layers"]:
        outputs = row["macs"] // math.prod(
            row["weight_shape"][1:] if row["op"] == "Conv" else row["weight_shape"][:1]
        )
        clips = 0.0 if row["op"] == "Gemm" else 2 * 0.9  # which gives floats
        assert found[row["name"]] == pytest.approx(row["macs"] * 0.3 + outputs * (4.6 + clips))
        assert row["activation_format"] == "uint8"
    assert made.report["totals"]["energy45nm_pj"] == pytest.approx(sum(found.values()))
    assert made.report["totals"]["acev2_set"] == "acev2/int-linear"
