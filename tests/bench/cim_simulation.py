"""How fast whole compiled programs are simulated: products of arrays in one go, and plane by plane."""

import statistics
import time
from dataclasses import dataclass

from tests.bench.bench_table import Bench, Table
from tests.bench.cim_exact import CALIBRATION
from tests.bench.cim_networks import SEEDED, calls, seeded
from tests.bench.cim_simulator import BAR, BAR_PLANES
from tests.zoo.cim_networks import Network, with_formats

ROUNDS = 5
HEADER = ("network", "weights x inputs", "path", "M MAC", "instructions", "us an instruction", "seconds",
          "G MAC/s", "limit", "cpu G MAC/s")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row: a network, the formats of its weights and activations, and whether planes are kept apart."""

    name: str
    weights: str = "int8"
    activations: str = "uint8"
    planes: bool = False


CASES = (
    Case("VGG-8"),
    Case("ResNet-18"),
    Case("resnet20_cifar10"),
    Case("mobilenetv2_imagenet"),
    Case("VGG-8", "fixp4", "uint4", planes=True),
    Case("resnet20_cifar10", "fixp4", "uint4", planes=True),
)


def measure(bench: Bench) -> Table:
    """Median of some samples, after one that prepares weights and bindings; no boot, no host stages' loading."""
    made = Table("simulating whole programs, one sample", HEADER)
    for case in CASES:
        if case.name not in SEEDED and bench.zoo is None:
            continue
        if bench.quick and case.name != "resnet20_cifar10":
            continue
        network = _network(bench, case)
        (feeds,) = calls(bench.zoo, case.name, 1)
        simulator = network.simulator(case.planes)
        simulator.run(feeds, network.host)
        times, cpu = [], []
        for _ in range(2 if bench.quick else ROUNDS):
            start, begun = time.perf_counter(), time.process_time()
            counters = simulator.run(feeds, network.host).counters
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - begun)
        seconds = statistics.median(times)
        macs = counters.macs + counters.hp_macs
        made.rows.append(
            (case.name, f"{case.weights} x {case.activations}",
             "planes" if case.planes else "products", round(macs / 1e6, 1), counters.instructions,
             round(1e6 * seconds / counters.instructions, 1), round(seconds, 3), round(macs / seconds / 1e9, 2),
             BAR_PLANES if case.planes else BAR, round(macs / statistics.median(cpu) / 1e9, 2))
        )  # fmt: skip
    made.notes.append("MACs of arrays and of the hp unit; one thread of the BLAS: OPENBLAS_NUM_THREADS=1")
    return made


def _network(bench: Bench, case: Case) -> Network:
    if case.name in SEEDED:
        recipe = "int8" if case.weights == "int8" else "w4a8"
        return seeded(
            case.name, recipe=recipe, weight_format=case.weights, activation_format=case.activations
        )
    assert bench.zoo is not None
    return with_formats(bench.zoo, case.name, case.weights, case.activations, CALIBRATION)
