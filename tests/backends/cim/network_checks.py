"""Holds a compiled network against ONNX Runtime, the interpreter, the proofs and the file formats."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto

import lpcompile
from lpcompile.backends.cim.assembler import disassemble
from lpcompile.backends.cim.assembly_parser import assemble
from lpcompile.backends.cim.build import ASSEMBLY, PROGRAM
from lpcompile.backends.cim.container import from_bytes, to_bytes
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.program import DeviceStage, HostStage, Program
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.simulator import Simulator
from tests.backends.cim.interpreter import Interpreter
from tests.backends.cim.random_machines import PRESETS, description
from tests.support import run_model

Arrays = Mapping[str, np.ndarray]


def compiled(
    model: ModelProto,
    calls: list[dict[str, np.ndarray]],
    machine: str,
    folder: Path,
    recipe: str = "int8",
    **options: Any,
) -> lpcompile.Artefacts:
    """A network compiled for a built-in machine, or for TOML text."""
    if machine not in PRESETS:
        path = folder / "machine.toml"
        path.write_text(machine)
        options["machine"] = str(path)
    else:
        options["machine"] = machine
    return lpcompile.compile(model, target="cim", calibration=calls, recipe=recipe, threads=1, **options)


def program_of(made: lpcompile.Artefacts) -> Program:
    """The program of a compilation, after its round trips."""
    program = from_bytes(made.files[PROGRAM])
    assert to_bytes(program) == made.files[PROGRAM]
    text = disassemble(program)
    assert text.encode() == made.files[ASSEMBLY]
    assert assemble(text, data=program) == program
    return program


def simulated(
    program: Program, machine: MachineDescription, feeds: Arrays, *, planes: bool = False
) -> Arrays:
    """Outputs of the simulator."""
    return Simulator(program, Capacities.of(machine), planes=planes).run(feeds, run_model).outputs


def interpreted(program: Program, machine: MachineDescription, feeds: Arrays) -> Arrays:
    """Outputs with every device stage in the interpreter, sample by sample, and host stages in ONNX Runtime."""
    values = dict(feeds)
    for stage in program.stages:
        if isinstance(stage, HostStage):
            found = run_model(stage.model, {name: values[name] for name in stage.inputs})
            values |= {name: found[name] for name in stage.outputs}
            continue
        batch = [len(values[p.name]) for p in stage.inputs if p.batch_axis]
        rows = [_one(program, machine, stage, values, i) for i in range(max(batch, default=1))]
        for port in stage.outputs:
            parts = [row[port.name] for row in rows]
            values[port.name] = np.concatenate(parts) if port.batch_axis else parts[-1]
    return {o.name: values[o.name] for o in program.outputs}


def _one(
    program: Program, machine: MachineDescription, stage: DeviceStage, values: Arrays, sample: int
) -> Arrays:
    interpreter = Interpreter(
        replace(program, stages=(stage,)),
        gb_bytes=machine.global_bytes,
        lb_bytes=machine.local_bytes,
        adc_bits=machine.adc_bits,
        transfer=machine.transfer or "clip",
    )
    own = slice(sample, sample + 1)
    return interpreter.run(
        {p.name: values[p.name][own] if p.batch_axis else values[p.name] for p in stage.inputs}
    )


def assert_equal(found: Arrays, wanted: Arrays) -> None:
    """The same arrays, bit for bit."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def _equal(found: Arrays, wanted: Arrays) -> bool:
    return all(np.array_equal(found[k], v, equal_nan=v.dtype.kind == "f") for k, v in wanted.items())


def assert_codes(program: Program, machine: MachineDescription, model: ModelProto, feeds: Arrays) -> None:
    """Whatever leaves the machine is right when the host's floats are those of the whole model.

    The runtime fuses a whole model otherwise than its parts, so the floats of two host stages may differ from it in
    their last bits.
    """
    hosts = {s.model: s.outputs for s in program.stages if isinstance(s, HostStage)}
    assert len(hosts) > 1
    ports = {p.name for s in program.stages if isinstance(s, DeviceStage) for p in (*s.inputs, *s.outputs)}
    whole = ModelProto()
    whole.CopyFrom(model)
    there = {o.name for o in model.graph.output}
    whole.graph.output.extend(ValueInfoProto(name=n) for n in {*ports, *sum(hosts.values(), ())} - there)
    known = run_model(whole, feeds)

    def host(data: bytes, given: Arrays) -> Arrays:
        assert_equal(given, {k: known.get(k, v) for k, v in given.items()})
        return {k: known[k] for k in hosts[data]}

    found = Simulator(program, Capacities.of(machine)).run(feeds, host).outputs
    assert_equal(found, {k: known.get(k, v) for k, v in found.items()})


def check(
    made: lpcompile.Artefacts, machine: str, feeds: Arrays, *, planes: bool = False, interpreter: bool = False
) -> bool:
    """All checks of one compiled network; whether every tile is lossless."""
    program, chip = program_of(made), description(machine)
    proofs = made.report["verification"]["proofs"]
    assert proofs["hold"], proofs["first"]
    found = simulated(program, chip, feeds)
    lossless = bool(proofs["lossless_groups"] == proofs["groups"])
    if lossless:
        if not _equal(found, run_model(made.model, feeds)):
            assert_codes(program, chip, made.model, feeds)
        if planes:
            assert_equal(simulated(program, chip, feeds, planes=True), found)
    if interpreter or not lossless:
        assert_equal(interpreted(program, chip, feeds), found)
    return lossless
