"""A layer whose codes and scales stay: the factors of its side path and its bias are trained.

W^ = s_c t_c rint((w8 + B A) / t_c), B in units of the scale s_c. Both roundings, of the factors to 8 bits and of the
merged image, are in every forward step; the gradient goes straight through them, so dL/dV = s_c dL/dW^,
dL/dB = dL/dV A^T and dL/dA = B^T dL/dV. Factors stay on the grids they have: codes were chosen for what rounding the
merged image loses, and another grid would draw that anew in all weights. [jayasuriya2024]
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lpcompile.errors import PassError
from lpcompile.formats.arrays import F32
from lpcompile.ir.node import Node
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.quant.side_path import LARGEST
from lpcompile.tuning.layer_arrays import SMALLEST, Arrays, LayerArrays


@dataclass
class FactorLayer(LayerArrays):
    """One layer with frozen codes and a side path.

    The arrays "b" and "a" are in steps of their 8 bits.

    Args:
        node: the float layer.
        tensor: its planned codes with their path, (C, K).
        bias: (C,) its bias now, or None where none is trained.
        spread: (C,) standard deviation of its outputs, or an estimate of it.

    Raises:
        PassError: there is no side path.
    """

    node: Node
    tensor: QuantizedTensor
    bias: F32 | None = None
    spread: F32 | None = None
    _units: Arrays = field(default_factory=dict)
    _start: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight = self.node.inputs[1]
        if weight is None or self.tensor.side is None:
            raise PassError("a layer without a side path has no factors to train", where=self.node.name)
        self.op, self.shape = self.node.op, weight.dims
        self._image, scale = self.tensor.main.int8_image()
        self._scale = np.asarray(np.broadcast_to(scale.reshape(-1, 1), (len(self._image), 1)), np.float32)
        side = self.tensor.side
        self._ranks = np.asarray(side.multipliers.astype(np.float32) * side.unit, np.float32)
        self._start |= {"b": side.b.astype(np.float32), "a": side.a.astype(np.float32)}
        self._begin_bias(self.tensor.dequantize())

    def round(self, values: Mapping[str, F32]) -> QuantizedTensor:
        """The codes with the factors of a state in 8 bits; the tensor itself where none of them moved by a step.

        And where sums of the path would not be exact.
        """
        b, a = (np.rint(values[f"{self.name}/{role}"]).astype(np.int8) for role in "ba")
        assert self.tensor.side is not None
        path = replace(self.tensor.side, b=b, a=a)
        return replace(self.tensor, side=path) if path.is_exact(self.tensor.largest_level) else self.tensor

    def feeds(self, values: Mapping[str, F32]) -> Arrays:
        """What the model reads, by role: merged weights in the operator's own shape, and the bias."""
        self._read = self._factors(values)
        rows = self.round(values).dequantize()
        return self._fed(rows, values)

    def gradients(self, found: Mapping[str, F32]) -> Arrays:
        """Gradients of the arrays, from those of what the model read last, by role; straight through roundings."""
        made: Arrays = {}
        if "weight" in found:
            each = to_rows(self.op, found["weight"]) * self._scale
            b, a = self._read
            made[f"{self.name}/b"] = np.asarray(each @ a.T * self._ranks, np.float32)
            made[f"{self.name}/a"] = np.asarray(b.T @ each, np.float32)
        return made | self._bias_gradient(found)

    def hold(self, values: Mapping[str, F32]) -> None:
        """Keep factors in their limits, in place."""
        for role in "ba":
            array = values[f"{self.name}/{role}"]
            np.clip(array, -LARGEST, LARGEST, out=array)

    def moved(self, values: Mapping[str, F32]) -> float:
        """How far B A moved, as a share of what it was (Frobenius norms)."""
        before = self.tensor.side
        after = self.round(values).side
        assert before is not None
        assert after is not None
        was = before.product()
        return float(np.linalg.norm(after.product() - was)) / max(float(np.linalg.norm(was)), SMALLEST)

    def _factors(self, values: Mapping[str, F32]) -> tuple[F32, F32]:
        """B in units of the scales (C, r), and A (r, K), not rounded."""
        return np.asarray(values[f"{self.name}/b"] * self._ranks, np.float32), values[f"{self.name}/a"].copy()
