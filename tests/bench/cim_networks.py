"""Networks of the tables on compute in memory: zoo entries, seeded ones, and variants of a machine."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lpcompile
from lpcompile.backends.cim.machine import machine_text
from tests.bench.bench_table import scratch
from tests.bench.resnet18 import images, resnet18
from tests.bench.vgg8 import SIDE, vgg8
from tests.zoo import cim_networks
from tests.zoo.cim_networks import Network
from tests.zoo.entries import Feeds, Zoo

SEEDED: dict[str, tuple[Callable[[], Any], int]] = {"VGG-8": (vgg8, SIDE), "ResNet-18": (resnet18, 224)}
SEEDED_SAMPLES = 8
SEEDS = {"calib": 0, "eval": 1}  # of samples


def seeded(name: str, *, recipe: str = "int8", **options: Any) -> Network:
    """A network of `SEEDED` with seeded weights, on seeded samples."""
    build, side = SEEDED[name]
    calibration = {"image": images(SEEDED_SAMPLES, side, SEEDS["calib"])}
    made = lpcompile.compile(build(), target="cim", calibration=calibration, recipe=recipe, **options)
    return Network(name, made, options.get("machine"))


def calls(zoo: Zoo | None, name: str, count: int, split: str = "eval") -> Iterator[Feeds]:
    """Feeds of calls with so many samples in all."""
    if name in SEEDED:
        yield {"image": images(count, SEEDED[name][1], SEEDS[split])}
    elif zoo is not None:
        yield from cim_networks.calls(zoo, name, count, split)


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
