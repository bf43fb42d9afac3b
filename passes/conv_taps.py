"""Where the taps of a convolution read: kernels of any size, padding and dilation can be laid over one another."""

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from lpcompile.ir.node import Node

Axes = tuple[int, ...]  # one number a spatial axis

AUTO_PAD = "its padding depends on the size of its input"
MALFORMED = "its attributes do not fit its kernel"


@dataclass(frozen=True, slots=True)
class Taps:
    """Where a convolution reads.

    Attributes:
        kernel, dilations, strides: one number an axis.
        first: offset of the first tap, minus the padding before.
        beyond: padding after, less the offset of the last tap: with the stride it says how many outputs there are.
        group: as of Conv.
    """

    kernel: Axes
    dilations: Axes
    strides: Axes
    first: Axes
    beyond: Axes
    group: int

    @classmethod
    def of(cls, node: Node, kernel: Axes, group: int) -> "Taps | str":
        """Of a Conv or an AveragePool, or why that cannot be said."""
        rank, ones = len(kernel), (1,) * len(kernel)
        wanted = {"pads": 2 * rank, "dilations": rank, "strides": rank}
        if not rank or any(len(node.attrs.get(name) or [0] * n) != n for name, n in wanted.items()):
            return MALFORMED
        mode = node.attrs.get("auto_pad", "NOTSET")
        if mode not in ("NOTSET", "VALID"):
            return AUTO_PAD
        pads = (mode != "VALID" and node.attrs.get("pads")) or [0] * 2 * rank
        dilations = tuple(node.attrs.get("dilations") or ones)
        reach = [p - (k - 1) * d for p, k, d in zip(pads[:rank], kernel, dilations, strict=True)]
        beyond = tuple(r + p for r, p in zip(reach, pads[rank:], strict=True))
        first = tuple(-p for p in pads[:rank])
        return cls(kernel, dilations, tuple(node.attrs.get("strides") or ones), first, beyond, group)

    @classmethod
    def single(cls, rank: int, group: int) -> "Taps":
        """One tap at the position itself."""
        ones, zeros = (1,) * rank, (0,) * rank
        return cls(ones, ones, ones, zeros, zeros, group)

    def joined(self, other: "Taps") -> "Taps":
        """The least grid of taps that holds both; both have the same strides."""
        kernel, dilations, first = [], [], []
        for a in range(len(self.kernel)):
            low = min(self.first[a], other.first[a])
            ends = [t.first[a] + (t.kernel[a] - 1) * t.dilations[a] for t in (self, other)]
            steps = [t.dilations[a] for t in (self, other) if t.kernel[a] > 1]
            step = gcd(self.first[a] - low, other.first[a] - low, *steps) or 1
            kernel.append((max(ends) - low) // step + 1)
            dilations.append(step)
            first.append(low)
        beyond = tuple(map(max, self.beyond, other.beyond))
        group = gcd(self.group, other.group)
        return Taps(tuple(kernel), tuple(dilations), self.strides, tuple(first), beyond, group)

    def weights(self, channels: int, inputs: int) -> int:
        """Numbers of a kernel from so many channels to so many."""
        return channels * (inputs // self.group) * prod(self.kernel)

    def pads(self) -> list[int]:
        """As attribute of a Conv: before all axes, then after all axes."""
        last = [f + (k - 1) * d for f, k, d in zip(self.first, self.kernel, self.dilations, strict=True)]
        return [-f for f in self.first] + [b + e for b, e in zip(self.beyond, last, strict=True)]

    def attributes(self) -> dict[str, Any]:
        """Of the Conv that reads so."""
        return {
            "group": self.group,
            "kernel_shape": list(self.kernel),
            "pads": self.pads(),
            "dilations": list(self.dilations),
            "strides": list(self.strides),
        }

    def outputs(self, sizes: Axes) -> Axes:
        """Sizes of the result for those of the input."""
        return tuple((n - 1 + b) // s + 1 for n, b, s in zip(sizes, self.beyond, self.strides, strict=True))
