"""Whole runs: batches, host stages, what is kept between samples, and what does not fit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DeviceStage, HostStage, Interface, Program
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.errors import InputError, LpcompileError, ProgramError
from tests.backends.cim.build import Builder, capacities, op

RNG = np.random.default_rng(13)
WEIGHTS = RNG.integers(-8, 8, (6, 3))
INIT = 1


def device() -> Builder:
    """y = x @ WEIGHTS, a symbolic batch."""
    b = Builder()
    x = b.feed("x", (2, 6), batch=True)
    acc = b.desc((2, 3), "i32")
    b.run[0].append(op("MVM", b.group(WEIGHTS), x, acc, flags=INIT))
    b.fetch("y", acc, batch=True)
    return b


def between_hosts() -> Program:
    """f -> [host: x = u8(f)] -> machine -> [host: z = y / 2]."""
    b = device()
    stage = DeviceStage(0, tuple(b.inputs), tuple(b.outputs))
    made = b.program([HostStage(b"first", ("f",), ("x",)), stage, HostStage(b"last", ("y", "f"), ("z",))])
    return replace(
        made,
        inputs=(Interface("f", "float32", ("N", 2, 6)),),
        outputs=(Interface("z", "float32", ("N", 2, 3)), Interface("y", "int32", ("N", 2, 3))),
    )


def host(model: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if model == b"first":
        return {"x": feeds["f"].astype(np.uint8)}
    return {"z": (feeds["y"] / 2 + 0 * feeds["f"][..., :3]).astype(np.float32)}


def test_a_batch_is_run_sample_by_sample_and_hosts_once() -> None:
    calls = []

    def counted(model: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        calls.append(model)
        return host(model, feeds)

    f = RNG.integers(0, 256, (5, 2, 6)).astype(np.float32)
    simulator = Simulator(between_hosts(), capacities())
    found = simulator.run({"f": f}, counted)
    expected = f.astype(np.int64) @ WEIGHTS
    np.testing.assert_array_equal(found.outputs["y"], expected)
    np.testing.assert_array_equal(found.outputs["z"], (expected / 2).astype(np.float32))
    assert calls == [b"first", b"last"]
    assert found.samples == 5
    assert [(r.stage, r.sample) for r in found.runs] == [(None, -1), *((0, i) for i in range(5))]
    assert found.cycles == sum(r.cycles for r in found.runs[1:])
    assert found.counters.macs == 5 * 2 * 6 * 3
    again = simulator.run({"f": f[:1]}, counted)
    assert [(r.stage, r.sample) for r in again.runs] == [(0, 0)]
    assert again.boot_cycles == 0
    np.testing.assert_array_equal(again.outputs["y"], expected[:1])


def test_memory_is_kept_from_sample_to_sample() -> None:
    b = Builder()
    x = b.feed("x", (4,), "i32", batch=True)
    total = b.desc((4,), "i32")
    b.boot[0].append(op("FILL", total, 100))
    b.run[0].append(op("ACC", total, x))
    b.fetch("y", total, batch=True)
    x_values = RNG.integers(-50, 50, (3, 4)).astype(np.int32)
    found = Simulator(b.program(), capacities()).run({"x": x_values}).outputs["y"]
    np.testing.assert_array_equal(found, 100 + np.cumsum(x_values, axis=0))


def test_layouts_of_ports_are_those_of_their_descriptors() -> None:
    b = device()
    b.descriptors[b.inputs[0].descriptor] = replace(
        b.descriptors[b.inputs[0].descriptor], dims=((2, 1), (6, 2))
    )
    source = b.run[0][0].b
    b.descriptors[source] = replace(b.descriptors[source], dims=((2, 1), (6, 2)))
    x = RNG.integers(0, 256, (1, 2, 6)).astype(np.uint8)
    found = Simulator(b.program(), capacities()).run({"x": x}).outputs["y"]
    np.testing.assert_array_equal(found, x.astype(np.int64) @ WEIGHTS)


def wrong(array: NDArray[Any]) -> tuple[type[LpcompileError], str]:
    with pytest.raises(LpcompileError) as caught:
        Simulator(device().program(), capacities()).run({"x": array})
    return type(caught.value), caught.value.message


def test_feeds_that_do_not_fit_are_the_users() -> None:
    good = np.zeros((1, 2, 6), np.uint8)
    assert wrong(good.astype(np.int8)) == (InputError, "input 'x' takes uint8, not int8")
    assert wrong(good[0]) == (InputError, "input 'x' takes shape ('N', 2, 6), not (2, 6)")
    assert wrong(good[:0])[0] is InputError
    with pytest.raises(InputError, match="no array for the input 'x'"):
        Simulator(device().program(), capacities()).run({})


def test_stages_that_do_not_fit_are_the_programs() -> None:
    f = {"f": np.zeros((1, 2, 6), np.float32)}
    made = between_hosts()
    for program, run_host, message in (
        (made, None, "nothing to run it with"),
        (replace(made, stages=made.stages[1:]), host, "nothing computes 'x'"),
        (replace(made, stages=made.stages[:2]), host, "no stage computes the output 'z'"),
        (made, lambda _m, _f: {"x": np.zeros((1, 2, 6), np.int8)}, "enters the machine as u8, not int8"),
        (made, lambda _m, _f: {"x": np.zeros((1, 2, 7), np.uint8)}, "enters the machine with shape"),
        (made, lambda _m, _f: {}, "does not give 'x'"),
    ):
        with pytest.raises(ProgramError, match=message):
            Simulator(program, capacities()).run(f, run_host)


def test_ports_are_checked() -> None:
    b = device()
    x = {"x": np.zeros((1, 2, 6), np.uint8)}
    port = b.inputs[0]
    for changed, message in (
        (replace(port, descriptor=999), "no descriptor 999"),
        (replace(port, descriptor=b.run[0][0].a), "in DRAM"),
        (replace(port, descriptor=b.outputs[0].descriptor), "in DRAM"),
        (replace(port, shape=(1, 2, 6, 1)), "enters the machine with shape"),
    ):
        b.inputs[0] = changed
        stage = DeviceStage(0, (changed,), tuple(b.outputs))
        with pytest.raises(ProgramError, match=message):
            Simulator(replace(device().program(), stages=(stage,)), capacities()).run(x)
    with pytest.raises(ProgramError, match="no stream for device stage 1"):
        Simulator(replace(device().program(), stages=(DeviceStage(1, (port,), ()),)), capacities()).run(x)
