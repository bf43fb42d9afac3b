"""The simulator: runs a program sample by sample and gives its outputs, cycles and counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.backends.cim.program import DeviceStage, HostStage, Port, Program
from lpcompile.backends.cim.simulator.accesses import accesses
from lpcompile.backends.cim.simulator.batch import PORT_DTYPES, check_feeds, joined, samples_of
from lpcompile.backends.cim.simulator.capacities import Capacities, Limits
from lpcompile.backends.cim.simulator.context import Context, Counters
from lpcompile.backends.cim.simulator.converter import Converter
from lpcompile.backends.cim.simulator.dispatch import Dispatch
from lpcompile.backends.cim.simulator.memory import Memory
from lpcompile.backends.cim.simulator.observer import Executed, Observer
from lpcompile.backends.cim.simulator.operands import Operands
from lpcompile.backends.cim.simulator.ordering import order_of
from lpcompile.backends.cim.simulator.queues import Queues, waits_for_ever
from lpcompile.backends.cim.simulator.races import races
from lpcompile.backends.cim.simulator.result import RunHost, SimulationResult, StageRun
from lpcompile.backends.cim.simulator.streams import Operation, Schedule, unroll
from lpcompile.backends.cim.simulator.timing import Timing, UnitTiming, Work
from lpcompile.errors import ProgramError


class Simulator:
    """One machine with one program in it.

    Args:
        program: to execute; it is not trusted.
        capacities: of the machine.
        timing: how long instructions take; one cycle each by default.
        limits: where a simulation stops.
        planes: every MVM goes plane by plane, even where one product gives the same integers.
        observer: is told of every executed instruction.
        trace: keep the executed instructions in the result.
        check_races: prove first that no two accesses to the same bytes race, and that queues need not wait for ever.

    Raises:
        ProgramError: the program does not fit the machine.
    """

    def __init__(
        self,
        program: Program,
        capacities: Capacities,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        planes: bool = False,
        observer: Observer | None = None,
        trace: bool = False,
        check_races: bool = True,
    ) -> None:
        self.program = program
        self.limits = limits or Limits()
        self.observer = observer
        self.trace = trace
        self.check_races = check_races
        self.context = Context(
            program,
            capacities,
            self.limits,
            Operands(program, capacities, self.limits),
            Memory(program, capacities),
            Converter(capacities),
            planes=planes,
            wants_ones=observer is not None and observer.wants_ones,
        )
        self._dispatch = Dispatch(self.context)
        self._queues = Queues(program, self._dispatch, timing or UnitTiming(), self.limits)
        self._schedules: dict[int | None, Schedule] = {}
        self._booted = False

    def run(self, feeds: Mapping[str, NDArray[Any]], run_host: RunHost | None = None) -> SimulationResult:
        """Run a batch: host stages once, device stages sample by sample.

        Args:
            feeds: arrays by name of the graph's inputs, of its types and shapes.
            run_host: runs the ONNX model of a host stage on arrays by name; needed where there are host stages.

        Raises:
            InputError: the feeds do not fit the graph.
            ProgramError: the program is wrong, waits for ever, or reaches a limit.
        """
        values = check_feeds(self.program.inputs, feeds)
        self.context.counters = Counters()
        runs = [] if self._booted else [self._machine(None, -1)]
        self._booted = True
        samples = 1
        for stage in self.program.stages:
            if isinstance(stage, HostStage):
                values.update(self._host(stage, values, run_host))
            else:
                count = samples_of(stage.inputs, values)
                samples = max(samples, count)
                runs += self._device(stage, values, count)
        missing = [o.name for o in self.program.outputs if o.name not in values]
        if missing:
            raise ProgramError(f"no stage computes the output '{missing[0]}'")
        outputs = {o.name: values[o.name] for o in self.program.outputs}
        return SimulationResult(outputs, samples, tuple(runs), self.context.counters)

    def _host(
        self, stage: HostStage, values: Mapping[str, NDArray[Any]], run_host: RunHost | None
    ) -> dict[str, NDArray[Any]]:
        if run_host is None:
            raise ProgramError("the program has a host stage, and nothing to run it with")
        missing = [name for name in stage.inputs if name not in values]
        if missing:
            raise ProgramError(f"nothing computes '{missing[0]}' before the host reads it")
        found = run_host(stage.model, {name: values[name] for name in stage.inputs})
        missing = [name for name in stage.outputs if name not in found]
        if missing:
            raise ProgramError(f"a host stage does not give '{missing[0]}'")
        return {name: np.asarray(found[name]) for name in stage.outputs}

    def _device(self, stage: DeviceStage, values: dict[str, NDArray[Any]], samples: int) -> list[StageRun]:
        runs, found = [], {port.name: [] for port in stage.outputs}  # type: ignore[var-annotated]
        for sample in range(samples):
            for port in stage.inputs:
                array = values[port.name]
                place = self._place(port, writes=True)
                place[...] = (array[sample] if port.batch_axis else array).reshape(place.shape)
            runs.append(self._machine(stage.index, sample))
            for port in stage.outputs:
                found[port.name].append(self._place(port, writes=False).copy())
        values.update({port.name: joined(port, found[port.name]) for port in stage.outputs})
        return runs

    def _place(self, port: Port, *, writes: bool) -> NDArray[Any]:
        """The memory of a port, checked."""
        if not 0 <= port.descriptor < len(self.program.descriptors):
            raise ProgramError(f"there is no descriptor {port.descriptor}", where=f"port '{port.name}'")
        descriptor = self.program.descriptors[port.descriptor]
        try:
            operand = self.context.operands.checked(descriptor, descriptor.base, writes=writes)
        except ValueError as error:
            raise ProgramError(f"descriptor {port.descriptor} {error}", where=f"port '{port.name}'") from None
        if descriptor.space == "lb" or port.dtype not in PORT_DTYPES or descriptor.dtype != port.dtype:
            raise ProgramError("a port is u8 or i32, in DRAM", where=f"port '{port.name}'")
        size = int(np.prod(port.shape, dtype=object)) if port.shape else 1
        if operand.elements != size:
            raise ProgramError(
                f"its descriptor holds {operand.elements} elements, its shape {size}",
                where=f"port '{port.name}'",
            )
        return self.context.memory.view(operand, 0)

    def _machine(self, stage: int | None, sample: int) -> StageRun:
        """Run the boot or a device stage once."""
        if stage not in self._schedules:
            schedule = unroll(self.program, stage, self.limits)
            if self.check_races:
                order = order_of(schedule)
                if order.stuck:
                    raise waits_for_ever(schedule.name, order.stuck)
                for race in races(schedule, accesses(schedule, self.context.operands), order):
                    raise ProgramError(f"a race: {race}", hint="order them by BAR, or by SIG and WAIT")
            self._schedules[stage] = schedule
        trace: list[Executed] = []

        def report(operation: Operation, start: int, end: int, work: Work) -> None:
            ones, self.context.ones = self.context.ones, None
            event = Executed(
                operation.core, operation.queue, operation.instruction, operation.node, start, end, work, ones
            )
            if self.trace:
                trace.append(event)
            if self.observer is not None:
                self.observer.executed(event)

        listens = self.trace or self.observer is not None
        if self.observer is not None:
            self.observer.begin(stage, sample)
        cycles = self._queues.run(self._schedules[stage], report if listens else None)
        return StageRun(stage, sample, cycles, tuple(trace))
