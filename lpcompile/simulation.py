"""Run a compiled program on the simulated machine, host stages in ONNX Runtime."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lpcompile.backends.cim.activity_record import ActivityRecord
from lpcompile.backends.cim.chrome_trace import Span, chrome_trace
from lpcompile.backends.cim.container import read_program
from lpcompile.backends.cim.densities import DensityTable
from lpcompile.backends.cim.energy import price
from lpcompile.backends.cim.energy_report import EnergyReport
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_timing import MachineTiming
from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities, Limits
from lpcompile.backends.cim.simulator.observer import Observer
from lpcompile.backends.cim.simulator.result import SimulationResult
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.errors import ProgramError
from lpcompile.runtime.host_sessions import HostSessions


@dataclass(frozen=True)
class PricedRun:
    """A simulation and its energy.

    Attributes:
        result: of the simulation, whole batch.
        energy: of all its samples together.
        densities: of ones in the inputs of its layers.
    """

    result: SimulationResult
    energy: EnergyReport
    densities: DensityTable


def machine_of(program: Program, name_or_path: str | None = None) -> MachineDescription:
    """The machine that a program was compiled for.

    Args:
        program: it.
        name_or_path: of the description; None for the built-in machine that the program names.

    Raises:
        MachineDescriptionError: there is none, or it is wrong.
        ProgramError: the program was compiled for another one.
    """
    machine = MachineDescription.load(name_or_path or program.machine)
    if machine.sha256 != program.machine_sha256:
        raise ProgramError(
            f"the program was compiled for another '{program.machine}' than '{name_or_path or program.machine}'",
            hint="give the description it was compiled for with --machine, or compile again",
        )
    return machine


def simulate(
    program: Program | str | os.PathLike[str],
    feeds: Mapping[str, NDArray[Any]],
    *,
    machine: str | None = None,
    planes: bool = False,
    trace: bool = False,
    max_cycles: int | None = None,
    observer: Observer | None = None,
    threads: int = 0,
) -> SimulationResult:
    """Run a program on a batch.

    Args:
        program: it, or the path of its file.
        feeds: arrays by name of the graph's inputs; a symbolic first axis is run sample by sample.
        machine: name or path of the description; None for the built-in machine that the program names.
        planes: every MVM plane by plane, even where one product gives the same integers.
        trace: keep every executed instruction.
        max_cycles: of the boot and of each sample of a device stage; None for a limit that no sound program meets.
        observer: is told of every executed instruction.
        threads: of ONNX Runtime for host stages; 0 leaves it to the runtime.

    Raises:
        ProgramError: the program is damaged, wrong, waits for ever or does not end in time.
        MachineDescriptionError: there is no such machine.
        InputError: the feeds do not fit.
    """
    read = program if isinstance(program, Program) else read_program(Path(program))
    description = machine_of(read, machine)
    simulator = Simulator(
        read,
        Capacities.of(description),
        timing=MachineTiming(description),
        limits=Limits() if max_cycles is None else Limits(cycles=max_cycles),
        planes=planes,
        observer=observer,
        trace=trace,
    )
    return simulator.run(feeds, HostSessions(threads))


def price_run(
    program: Program | str | os.PathLike[str],
    feeds: Mapping[str, NDArray[Any]],
    *,
    machine: str | None = None,
    densities: DensityTable | None = None,
    threads: int = 0,
) -> PricedRun:
    """Run a program on a batch and price it.

    Args:
        program: it, or the path of its file.
        feeds: as `simulate` takes them.
        machine: as `simulate` takes it.
        densities: of other samples: prices by them (mode `stat`); None prices what was counted here (`exact`).
        threads: of ONNX Runtime for host stages; 0 leaves it to the runtime.

    Raises:
        ProgramError: the program is damaged, wrong, waits for ever or does not end in time.
        MachineDescriptionError: there is no such machine.
        InputError: the feeds do not fit.
    """
    read = program if isinstance(program, Program) else read_program(Path(program))
    record = ActivityRecord(exact=True)
    result = simulate(read, feeds, machine=machine, observer=record, threads=threads)
    energy = price_record(read, record, result.samples, machine=machine, densities=densities)
    return PricedRun(result, energy, DensityTable.of(read, record.run))


def price_record(
    program: Program,
    record: ActivityRecord,
    samples: int,
    *,
    machine: str | None = None,
    densities: DensityTable | None = None,
) -> EnergyReport:
    """Price what an observer recorded: by its counts, or by densities of other samples.

    Args:
        program: that ran.
        record: of its run.
        samples: that it served.
        machine: as `simulate` takes it.
        densities: of other samples; None prices what was counted.
    """
    given = record.run if densities is None else densities.applied(program, record.run)
    mode = "exact" if densities is None else "stat"
    return price(machine_of(program, machine), program, given, mode, samples, record.boot)


def trace_text(result: SimulationResult, machine: MachineDescription) -> str:
    """The Chrome trace of a result, its runs one after the other.

    Args:
        result: of a simulation with `trace`.
        machine: whose clock turns cycles into time.
    """
    spans: list[Span] = []
    start = 0
    for run in result.runs:
        for event in run.trace:
            name = f"{event.instruction.mnemonic} {event.node}".rstrip()
            spans.append((event.core, event.queue, name, start + event.start, start + event.end))
        start += run.cycles
    return chrome_trace(machine, spans)
