"""Whole networks lowered for machines that are too small, or that have nothing to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import lpcompile
from lpcompile.backends.cim.machine import machine_text
from lpcompile.errors import TargetError
from tests.backends.cim.network_checks import assert_equal, check, compiled, program_of, simulated
from tests.backends.cim.random_machines import description, with_values
from tests.support import parse_model, random_feeds, run_model

TINY = with_values(machine_text("reference"), buffers__local_kib=1)
CONVS = """net (float[{n},3,8,8] x) => (float[{n},10] y)
    <float[40,3,3,3] w1, float[40,40,3,3] w2, float[40,10] w3> {{
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu (a)
    c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w2)
    d = GlobalAveragePool (c)
    e = Flatten (d)
    y = MatMul (e, w3) }}"""
WIDE = """net (float[N,1500] x) => (float[N,4] y) <float[1500,6] w1, float[6,8] w2, float[8,4] w3> {
    a = MatMul (x, w1)
    b = MatMul (a, w2)
    y = MatMul (b, w3) }"""


def made(model: ModelProto, machine: str, folder: Path, **options: Any) -> lpcompile.Artefacts:
    return compiled(model, [random_feeds(model, seed=i) for i in range(4)], machine, folder, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_short_capacity_is_met_by_segments(batch: str | int, tmp_path: Path) -> None:
    model = parse_model(CONVS.format(n=batch))
    found = made(model, "reference", tmp_path)
    report = found.report["program"]
    assert report["segments"] > 1
    assert not report["weights_stay"]
    assert any("segments" in w for w in found.report["warnings"])
    assert check(found, "reference", random_feeds(model, seed=9), planes=True)


def test_a_layer_that_fits_no_local_buffer_runs_on_the_host(tmp_path: Path) -> None:
    model = parse_model(WIDE)
    found = made(model, TINY, tmp_path)
    first = next(n.name for n in found.model.graph.node if n.op_type.endswith("MatMul_int8"))
    assert found.report["host"] == [
        {"node": first, "reason": "the 1500 bytes that one output position reads do not fit the local buffer"}
    ]
    assert found.report["verification"]["tiles"] > 0  # the others
    assert check(found, TINY, random_feeds(model, seed=9), interpreter=True)
    with pytest.raises(TargetError, match="does not do this node") as caught:
        made(model, TINY, tmp_path, strict=True)
    assert caught.value.exit_code == 5


def test_work_without_arrays_that_fits_no_local_buffer_runs_on_the_host(tmp_path: Path) -> None:
    text = """net (float[N,2,40,40] x) => (float[N,2,1,1] y) <float[2,2,1,1] w1, float[2,2,1,1] w2> {
        a = Conv (x, w1)
        b = MaxPool <kernel_shape = [40, 40]> (a)
        y = Conv (b, w2) }"""
    model = parse_model(text)
    found = made(model, TINY, tmp_path)
    (host,) = found.report["host"]
    assert host["reason"] == "one window does not fit the local buffer"
    assert check(found, TINY, random_feeds(model, seed=9))


@pytest.mark.parametrize("kernel", ["[1, 1]", "[3, 3]"])
def test_one_pixel_images(kernel: str, tmp_path: Path) -> None:
    pads = 1 if kernel == "[3, 3]" else 0
    text = f"""net (float[N,5,1,1] x) => (float[N,3,1,1] y)
        <float[6,5,{kernel[1:-1]}] w1, float[3,6,{kernel[1:-1]}] w2> {{
        a = Conv <pads = [{pads}, {pads}, {pads}, {pads}]> (x, w1)
        y = Conv <pads = [{pads}, {pads}, {pads}, {pads}]> (a, w2) }}"""
    model = parse_model(text)
    assert check(
        made(model, "reference", tmp_path), "reference", random_feeds(model, seed=9), interpreter=True
    )


def test_a_network_without_a_layer(tmp_path: Path) -> None:
    model = parse_model("net (float[N,4] x) => (float[N,4] y) { y = Softmax (x) }")
    found = made(model, "reference", tmp_path)
    assert any("nothing runs on the machine" in w for w in found.report["warnings"])
    assert check(found, "reference", random_feeds(model, seed=9))


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    model = parse_model(
        "net (float[N,4] x) => (float[N,4] x, float[N,3] y) <float[4,3] w> { y = MatMul (x, w) }", check=False
    )
    assert check(made(model, "reference", tmp_path), "reference", random_feeds(model, seed=9))


@pytest.mark.parametrize("shape", ["0,4", "2,0"])
def test_tensors_without_elements(shape: str, tmp_path: Path) -> None:
    k = shape.split(",")[1]
    text = f"""net (float[{shape}] x) => (float[a,3] y) <float[{k},6] w1, float[6,3] w2> {{
        a = MatMul (x, w1)
        b = Relu (a)
        y = MatMul (b, w2) }}"""
    model = parse_model(text, check=False)
    feeds = {"x": np.zeros([int(n) for n in shape.split(",")], np.float32)}
    found = compiled(model, [feeds], "reference", tmp_path)
    assert check(found, "reference", feeds)


def test_nodes_that_the_user_keeps_on_the_host(tmp_path: Path) -> None:
    model = parse_model(CONVS.format(n=2))
    model.graph.node[2].name = "middle"
    found = made(model, "reference", tmp_path, host=("middle",))
    assert {"node": "middle", "reason": "kept on the host on request"} in found.report["host"]
    assert check(found, "reference", random_feeds(model, seed=9))


@pytest.mark.thorough
def test_a_batch_is_served_sample_by_sample(tmp_path: Path) -> None:
    model = parse_model(CONVS.format(n="N"))
    program, machine = program_of(made(model, "reference", tmp_path)), description("reference")
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)}
    whole = simulated(program, machine, feeds)
    alone = [simulated(program, machine, {"x": feeds["x"][i : i + 1]})["y"] for i in range(3)]
    np.testing.assert_array_equal(whole["y"], np.concatenate(alone))
    assert_equal(whole, run_model(made(model, "reference", tmp_path).model, feeds))


def test_a_tensor_without_batch_axis_beside_a_batch(tmp_path: Path) -> None:
    text = """net (float[N,4] x, float[3,5] p) => (float[N,3] y, float[3,3] q)
        <float[4,6] w1, float[6,3] w2, float[5,6] w3> {
        a = MatMul (x, w1)
        y = MatMul (a, w2)
        b = MatMul (p, w3)
        q = MatMul (b, w2) }"""
    model = parse_model(text)
    assert check(
        made(model, "reference", tmp_path), "reference", random_feeds(model, seed=9), interpreter=True
    )
