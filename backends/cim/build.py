"""From the reference graph to what a machine runs. Nothing is built yet: the reference graph is the product."""

from collections.abc import Mapping, Sequence

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.target import Options, Products


def build(
    reference: LpGraph,
    numbers: DyadicNumbers,
    options: Options,
    calls: Sequence[Mapping[str, np.ndarray]],
) -> Products:
    """Program, assembler text and report of a reference graph; see `Target.build`."""
    return Products()
