"""In which form a side path is held beside the codes of its layer, and what that form costs."""

from dataclasses import dataclass, replace

import numpy as np

from lpcompile.formats.arrays import F64, Real
from lpcompile.plan import APART, CONCAT_IN, MERGED
from lpcompile.quant.concat_path import HiddenSample, concat_path
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import side_path


@dataclass(frozen=True, slots=True)
class PathForm:
    """In which form a path is held.

    Attributes:
        lowering: one of `plan.SIDE_LOWERINGS`.
        sample: of what the layer reads, where the path is concatenated to it.
    """

    lowering: str = MERGED
    sample: HiddenSample | None = None

    def beside(self, main: QuantizedTensor, b: Real, a: Real) -> QuantizedTensor:
        """Codes and these factors in 8 bits."""
        if self.lowering == CONCAT_IN:
            path = None if self.sample is None else concat_path(b, a, main.int8_image()[1], self.sample)
        else:
            apart, largest = self.lowering in APART, main.largest_level
            path = side_path(b, a, *main.int8_image(), largest=largest, apart=apart)
        return replace(main, side=path)

    def held(self, main: QuantizedTensor, b: F64, a: F64) -> tuple[F64, F64]:
        """What of large factors has room beside a main path: all of it, but where one product reads both."""
        if self.lowering != CONCAT_IN:
            return b, a
        path = self.beside(main, b, a).side
        if path is None:
            return b[:, :0], a[:0]
        left, right = (f.astype(np.float64) for f in path.factors())
        return left * main.int8_image()[1].reshape(-1, 1), right

    def noise(self, tensor: QuantizedTensor) -> float:
        """What rounding h adds to the sum of squares of the outputs; nothing where it has more than 8 bits."""
        if self.sample is None or tensor.side is None:
            return 0.0
        factors = tensor.side.b * tensor.main.int8_image()[1].reshape(-1, 1).astype(np.float64)
        return self.sample.step**2 / 12 * float(np.square(factors).sum())


MERGED_FORM = PathForm()
