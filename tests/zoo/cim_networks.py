"""Zoo entries compiled for compute in memory: their programs, samples for them, and whether they are exact."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import lpcompile
from lpcompile.backends.cim.build import PROGRAM
from lpcompile.backends.cim.container import from_bytes
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.backends.cim.machine_timing import MachineTiming
from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.observer import Observer
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.runtime.host_sessions import HostSessions
from tests.zoo.entries import Feeds, Zoo

FIXED = {"superres_x3": (1, 1, 128, 128)}  # where the graph leaves height and width open


@dataclass
class Network:
    """A compiled network.

    Attributes:
        name: of the zoo entry, or of another network.
        made: what the compiler gave.
        machine: that it was compiled for, a name or a path; None for the default.
        host: runs host stages.
    """

    name: str
    made: lpcompile.Artefacts
    machine: str | None = None
    host: HostSessions = field(default_factory=HostSessions)

    @functools.cached_property
    def program(self) -> Program:
        """Its program, read back from the bytes."""
        return from_bytes(self.made.files[PROGRAM])

    @property
    def description(self) -> MachineDescription:
        """The machine."""
        return MachineDescription.load(self.machine or self.program.machine)

    def simulator(self, planes: bool = False, observer: Observer | None = None) -> Simulator:
        """A simulator with the program in it; the compiler has proven that nothing races."""
        machine = self.description
        return Simulator(
            self.program,
            Capacities.of(machine),
            timing=MachineTiming(machine),
            planes=planes,
            observer=observer,
            check_races=False,
        )

    def largest_difference(self, feeds: Iterator[Feeds]) -> float:
        """Between outputs of the simulator and of ONNX Runtime on model.onnx; 0 where all bits agree."""
        simulator, worst = self.simulator(), 0.0
        for one in feeds:
            wanted = self.made.run(one)
            found = simulator.run(one, self.host).outputs
            assert found.keys() == wanted.keys()
            for output, array in found.items():
                if not np.array_equal(array, wanted[output]):
                    apart = np.abs(array.astype(np.float64) - wanted[output])
                    worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
        return worst


def from_zoo(
    zoo: Zoo, name: str, samples: int | None = None, *, recipe: str = "int8", **options: Any
) -> Network:
    """A zoo entry for `--target cim`, with at most so many calibration samples."""
    if name in FIXED:
        options["input_shapes"] = {zoo.entries[name]["input"]["name"]: FIXED[name]}
    calibration = cut(name, zoo.samples(name, limit=samples))
    made = lpcompile.compile(zoo.model(name), target="cim", calibration=calibration, recipe=recipe, **options)
    return Network(name, made, options.get("machine"))


def with_formats(
    zoo: Zoo, name: str, weights: str, activations: str, samples: int, **options: Any
) -> Network:
    """A zoo entry with weights and activations of two formats."""
    recipe = "int8" if weights == "int8" else "w4a8"
    formats = {"weight_format": weights, "activation_format": activations}
    return from_zoo(zoo, name, samples, recipe=recipe, **formats, **options)


def calls(zoo: Zoo, name: str, count: int, split: str = "eval") -> Iterator[Feeds]:
    """Feeds of calls with so many samples in all, spread over the split, each call as large as the graph allows."""
    arrays = cut(name, zoo.samples(name, split))
    have = len(next(iter(arrays.values())))
    chosen = np.linspace(0, have - 1, count).astype(int)
    size = 1 if name in FIXED else zoo.entries[name].get("batch", count)
    for first in range(0, count, size):
        yield {k: v[chosen[first : first + size]] for k, v in arrays.items()}


def cut(name: str, arrays: Feeds) -> Feeds:
    """Samples of the height and width that were fixed."""
    if name not in FIXED:
        return arrays
    height, width = FIXED[name][-2:]
    return {k: v[..., :height, :width] for k, v in arrays.items()}
