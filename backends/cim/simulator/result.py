"""What a simulation gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from lpcompile.backends.cim.simulator.context import Counters
from lpcompile.backends.cim.simulator.observer import Executed

Arrays = dict[str, NDArray[Any]]
RunHost = Callable[[bytes, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class StageRun:
    """One run of the machine.

    Attributes:
        stage: of the device; None for the boot.
        sample: index in the batch; -1 for the boot.
        cycles: until all queues were empty.
        trace: executed instructions, where a trace was asked for.
    """

    stage: int | None
    sample: int
    cycles: int
    trace: tuple[Executed, ...] = ()


@dataclass(frozen=True)
class SimulationResult:
    """Outputs of a program and what it took.

    Attributes:
        outputs: by name of the graph's outputs, whole batch.
        samples: in the batch.
        runs: of the machine, in order; the boot first where this call made it.
        counters: of this call.
    """

    outputs: Arrays
    samples: int
    runs: tuple[StageRun, ...]
    counters: Counters = field(default_factory=Counters)

    @property
    def cycles(self) -> int:
        """Of all device stages of all samples, without the boot."""
        return sum(run.cycles for run in self.runs if run.stage is not None)

    @property
    def boot_cycles(self) -> int:
        """Of the boot, 0 where an earlier call made it."""
        return sum(run.cycles for run in self.runs if run.stage is None)
