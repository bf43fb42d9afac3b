"""Networks compiled for compute in memory: zoo entries and seeded ones, their programs and their samples."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lpcompile
from lpcompile.backends.cim.build import PROGRAM
from lpcompile.backends.cim.container import from_bytes
from lpcompile.backends.cim.machine import MachineDescription, machine_text
from lpcompile.backends.cim.machine_timing import MachineTiming
from lpcompile.backends.cim.program import Program
from lpcompile.backends.cim.simulator.capacities import Capacities
from lpcompile.backends.cim.simulator.observer import Observer
from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.runtime.host_sessions import HostSessions
from tests.bench.bench_table import scratch
from tests.bench.resnet18 import images, resnet18
from tests.bench.vgg8 import SIDE, vgg8
from tests.zoo.entries import Feeds, Zoo

FIXED = {"superres_x3": (1, 1, 128, 128)}  # where the graph leaves height and width open
SEEDED: dict[str, tuple[Callable[[], Any], int]] = {"VGG-8": (vgg8, SIDE), "ResNet-18": (resnet18, 224)}
SEEDED_SAMPLES = 8
OTHER_SEED = 1  # of samples that calibration has not seen


@dataclass
class Network:
    """A compiled network.

    Attributes:
        name: of the zoo entry, or of the seeded network.
        made: what the compiler gave.
        machine: that it was compiled for, a name or a path.
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


def from_zoo(zoo: Zoo, name: str, samples: int | None = None, **options: Any) -> Network:
    """A zoo entry for `--target cim`, with at most so many calibration samples."""
    if name in FIXED:
        options["input_shapes"] = {zoo.entries[name]["input"]["name"]: FIXED[name]}
    calibration = cut(name, zoo.samples(name, limit=samples))
    made = lpcompile.compile(zoo.model(name), target="cim", calibration=calibration, **options)
    return Network(name, made, options.get("machine"))


def seeded(name: str, **options: Any) -> Network:
    """A network of `SEEDED` with seeded weights, on seeded samples."""
    build, side = SEEDED[name]
    calibration = {"image": images(SEEDED_SAMPLES, side)}
    made = lpcompile.compile(build(), target="cim", calibration=calibration, **options)
    return Network(name, made, options.get("machine"))


def calls(zoo: Zoo | None, name: str, count: int, split: str = "eval") -> Iterator[Feeds]:
    """Feeds of calls with so many samples in all, each call as large as the graph allows."""
    if name in SEEDED:
        yield {"image": images(count, SEEDED[name][1], OTHER_SEED if split == "eval" else 0)}
        return
    assert zoo is not None
    arrays = cut(name, zoo.samples(name, split, count))
    size = 1 if name in FIXED else zoo.entries[name].get("batch", count)
    for first in range(0, count, size):
        yield {k: v[first : first + size] for k, v in arrays.items()}


def cut(name: str, arrays: Feeds) -> Feeds:
    """Samples of the height and width that were fixed."""
    if name not in FIXED:
        return arrays
    height, width = FIXED[name][-2:]
    return {k: v[..., :height, :width] for k, v in arrays.items()}


def machine_variant(name: str, rows: int, complement: bool) -> str:
    """Path of a machine like a built-in one, but for the rows of a block and whether columns may be inverted."""
    lines = machine_text(name).splitlines()
    for i, line in enumerate(lines):
        if line.startswith("rows_active ="):
            lines[i] = f'rows_active = {{ value = {rows}, source = "assumed: a variant of {name}" }}'
        elif line.startswith("complement ="):
            lines[i] = f"complement = {str(complement).lower()}"
    path = Path(tempfile.mkdtemp(dir=scratch())) / f"{name}.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)
