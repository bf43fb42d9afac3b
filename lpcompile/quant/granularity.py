"""How many elements share a scale: a tensor, a slice along an axis, a group along an axis."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import FormatError

_GROUP = re.compile(r"group([1-9]\d*)(?:@(\d+))?")
_AXIS = re.compile(r"axis(\d+)")


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for all elements."""

    def __str__(self) -> str:
        return "tensor"

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """()."""
        del shape
        return ()

    def expand(self, scales: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Scales in a shape that broadcasts to `shape`."""
        del shape
        return scales


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale for each index along `axis`: for weights (C_out, ...) and axis 0, per output channel."""

    axis: int = 0

    def __str__(self) -> str:
        return f"axis{self.axis}"

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(length along the axis,)."""
        _check_axis(self.axis, shape, str(self))
        return (shape[self.axis],)

    def expand(self, scales: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Scales in a shape that broadcasts to `shape`."""
        return scales.reshape([-1 if i == self.axis else 1 for i in range(len(shape))])


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for each run of `size` elements along `axis`; the last run may be shorter."""

    size: int
    axis: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise FormatError(f"a group of {self.size} elements", hint="give a group size of 1 or more")

    def __str__(self) -> str:
        return f"group{self.size}" if self.axis == 1 else f"group{self.size}@{self.axis}"

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with the axis cut into groups."""
        _check_axis(self.axis, shape, str(self))
        return tuple(-(-n // self.size) if i == self.axis else n for i, n in enumerate(shape))

    def expand(self, scales: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Scales repeated to the full `shape`."""
        repeated = np.repeat(scales, self.size, axis=self.axis)
        return repeated[(slice(None),) * self.axis + (slice(shape[self.axis]),)]


Granularity = PerTensor | PerAxis | PerGroup


def parse(text: str) -> Granularity:
    """The granularity of a text such as "tensor", "axis0", "group32", "group32@0"; "channel" means "axis0".

    `parse(str(g)) == g`.

    Raises:
        FormatError: the text is none of these.
    """
    if text == "tensor":
        return PerTensor()
    if text == "channel":
        return PerAxis(0)
    if match := _AXIS.fullmatch(text):
        return PerAxis(int(match[1]))
    if match := _GROUP.fullmatch(text):
        return PerGroup(int(match[1]), int(match[2] or 1))
    raise FormatError(
        f"no granularity is called {text!r}",
        hint="use 'tensor', 'channel', 'axis0', 'group32' or 'group32@0'",
    )


def _check_axis(axis: int, shape: tuple[int, ...], text: str) -> None:
    if not 0 <= axis < len(shape):
        raise FormatError(f"granularity '{text}' needs an axis {axis}, but the shape is {shape}")
