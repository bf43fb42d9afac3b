"""VGG-8 for CIFAR-10, as the NeuroSim project benchmarks it: six 3x3 convolutions, three pools, two dense layers.

Counted, not run: positions, rows, outputs, and bytes that enter and leave each layer at 8 bits.
"""

from dataclasses import dataclass

from lpcompile.backends.cim.digital_int8 import DigitalLayer

_CONVOLUTIONS = ((3, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8), (512, 512, 8))
_DENSE = ((8192, 1024), (1024, 10))
_TAPS = 9


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a product of (positions, rows) by (rows, outputs), and its tensors in bytes."""

    name: str
    positions: int
    rows: int
    outputs: int
    input_bytes: int
    output_bytes: int

    @property
    def macs(self) -> int:
        """Products."""
        return self.positions * self.rows * self.outputs

    @property
    def digital(self) -> DigitalLayer:
        """The layer for the conventional accelerator."""
        weights = self.rows * self.outputs
        return DigitalLayer(self.name, self.macs, weights, self.input_bytes, self.output_bytes)


def vgg8() -> list[Layer]:
    """The layers in order."""
    layers = [
        Layer(
            f"conv{i}", size * size, channels * _TAPS, outputs, size * size * channels, size * size * outputs
        )
        for i, (channels, outputs, size) in enumerate(_CONVOLUTIONS, 1)
    ]
    layers += [
        Layer(f"fc{i}", 1, rows, outputs, rows, outputs) for i, (rows, outputs) in enumerate(_DENSE, 1)
    ]
    return layers
