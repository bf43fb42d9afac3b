"""The integers of a reference graph by node name, so that a lowering need not decode the graph."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lpcompile.quant.dyadic import Requant
from lpcompile.quant.side_integers import SideIntegers


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """The int8 weights of one layer.

    Attributes:
        rows: (C_out, K) int8, group multipliers multiplied in; K in ONNX order (C_in / group, *kernel).
        shape: of the weight tensor in the float graph.
        format: of the stored codes.
        multipliers: (C_out, G) integer group scales, or None.
        group_size: inputs that share one; 0 for none.
    """

    rows: NDArray[np.int8]
    shape: tuple[int, ...]
    format: str
    multipliers: NDArray[np.uint8] | None = None
    group_size: int = 0


@dataclass(frozen=True, slots=True)
class DyadicNumbers:
    """Weights, requantisations and tables of a reference graph.

    Attributes:
        weights: of Dyadic and Accumulate layers.
        requants: of every node that requantises.
        luts: uint8 (256,) of every Lookup.
        sides: side paths of layers that have one.
        input_zero_points: of every node that computes, one for each operand that holds codes.
    """

    weights: dict[str, LayerWeights] = field(default_factory=dict)
    requants: dict[str, Requant] = field(default_factory=dict)
    luts: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sides: dict[str, SideIntegers] = field(default_factory=dict)
    input_zero_points: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, tuple[int, ...]]:
        """Every node that computes on codes."""
        return self.input_zero_points
