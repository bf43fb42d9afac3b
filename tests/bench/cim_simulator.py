"""How fast the CIM simulator multiplies: convolution by convolution, requantisation included."""

import time
from dataclasses import dataclass

import numpy as np

from lpcompile.backends.cim.simulator.simulator import Simulator
from lpcompile.backends.cim.simulator.weights import read_group
from tests.backends.cim.build import TWOS4, TWOS8, Builder, capacities, op, window
from tests.bench.bench_table import Bench, Table

BAR, BAR_PLANES = 10.0, 0.5  # G MAC a second on two cores: one product an MVM; 4 x 4 planes
STRIP_BYTES = 1 << 18  # of accumulators
INIT = 1


@dataclass(frozen=True)
class Layer:
    """A convolution: input height and width, channels in and out, kernel, stride."""

    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1

    @property
    def name(self) -> str:
        return f"{self.kernel}x{self.kernel}/{self.stride} {self.inputs}->{self.outputs} on {self.size}"


# of ResNet-18, ResNet-50 and VGG-8
LAYERS = (
    Layer(224, 3, 64, 7, 2),
    Layer(56, 64, 64, 3),
    Layer(28, 128, 128, 3),
    Layer(14, 256, 256, 3),
    Layer(7, 512, 512, 3),
    Layer(56, 64, 256, 1),
    Layer(14, 1024, 256, 1),
    Layer(32, 128, 128, 3),
)


def program(layer: Layer, bits: int) -> Builder:
    """The layer in strips of output rows, from and to the global buffer."""
    b = Builder()
    rng = np.random.default_rng(0)
    pad = layer.kernel // 2
    out = (layer.size + 2 * pad - layer.kernel) // layer.stride + 1
    strip = max(1, min(out, STRIP_BYTES // (4 * out * layer.outputs)))
    rows = (strip - 1) * layer.stride + layer.kernel
    padded = ((out - 1) * layer.stride + layer.kernel, layer.size, layer.inputs)
    x = b.desc(padded)
    acc = b.desc((strip, out, layer.outputs), "i32")
    y = b.desc((strip, out, layer.outputs))
    half = 1 << bits - 1
    weights = rng.integers(-half, half, (layer.kernel**2 * layer.inputs, layer.outputs))
    group = b.group(weights, TWOS4 if bits == 4 else TWOS8)
    slid = window((layer.kernel, layer.kernel), (layer.stride, layer.stride), (0, pad, 0, pad), pad_value=3)
    line = layer.size * layer.inputs
    dims = ((rows, line), (layer.size, layer.inputs), (layer.inputs, 1))
    xw = b.again(x, dims=dims, window=slid, bits=bits, levels=(strip * layer.stride * line,))
    rq = b.requant(
        rng.integers(1, 32767, layer.outputs),
        rng.integers(0, 1 << 30, layer.outputs),
        np.full(layer.outputs, 24),
    )
    b.run[0] = [
        op("FILL", x, 5),
        op("BAR"),
        op("REPEAT", out // strip, 4),
        op("MVM", group, xw, acc, flags=INIT),
    ]
    b.run[0] += [op("BAR"), op("VRQ", y, acc, rq), op("BAR")]
    return b


def measure(bench: Bench) -> Table:
    """G MAC a second of whole programs, best of some runs."""
    made = Table(
        "CIM simulator, G MAC a second",
        ("layer", "8 x 8, one product", "bar", "4 x 4, plane by plane", "bar"),
    )
    layers = LAYERS[3:5] if bench.quick else LAYERS
    total = [0.0, 0.0, 0.0, 0.0]
    for layer in layers:
        rates = []
        for index, (bits, planes) in enumerate(((8, False), (4, True))):
            machine = capacities(lb_bytes=1 << 25, macros=1 << 16)
            simulator = Simulator(program(layer, bits).program(), machine, planes=planes)
            seconds, macs = _best(simulator, 2 if planes else 5)
            rates.append(macs / seconds / 1e9)
            total[2 * index] += macs
            total[2 * index + 1] += seconds
        made.rows.append((layer.name, round(rates[0], 1), BAR, round(rates[1], 2), BAR_PLANES))
    made.rows.append(
        ("all", round(total[0] / total[1] / 1e9, 1), BAR, round(total[2] / total[3] / 1e9, 2), BAR_PLANES)
    )
    made.notes.append(
        "one thread of the BLAS is best: OPENBLAS_NUM_THREADS=1; more wait for each other, spinning"
    )
    made.notes.append(f"reading the weights back from their planes: {_weights():.0f} Mbit/s")
    return made


def _best(simulator: Simulator, runs: int) -> tuple[float, int]:
    times, macs = [], 0
    simulator.run({})  # prepares weights and bindings, as the first of many samples does
    for _ in range(runs):
        start = time.perf_counter()
        macs = simulator.run({}).counters.macs
        times.append(time.perf_counter() - start)
    return min(times), macs


def _weights() -> float:
    b = program(Layer(7, 512, 512, 3), 8)
    made = b.program()
    start = time.perf_counter()
    read_group(made, b.groups[0]).integers()
    return 8 * 9 * 512 * 512 / (time.perf_counter() - start) / 1e6
