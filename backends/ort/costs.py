"""Recorded times of ONNX Runtime's kernels: a table that decisions read, never the clock of this run."""

import functools
import math
import tomllib
from dataclasses import dataclass
from importlib import resources

from lpcompile.errors import TargetError
from lpcompile.target import LayerShape


@dataclass(frozen=True, slots=True)
class RecordedCosts:
    """Linear cost formulas per kind of kernel, in macs, outputs, weights and patches (output pixels x kernel pixels).

    Attributes:
        name: of the table, shown in reasons.
        kernels: "<kind>.<kernel>" -> coefficients; kinds are dense, grouped, depthwise, matrix, and "<rows>-row" for
            matrices of few rows whose weights do not fit into the caches.
        elementwise: "<op>.<kernel>" -> coefficients, measured behind a convolution: what the runtime fuses is cheap.
        quantize: fixed and per-element time of QuantizeLinear and DequantizeLinear.
    """

    name: str
    kernels: dict[str, dict[str, float]]
    elementwise: dict[str, dict[str, float]]
    quantize: dict[str, float]

    @classmethod
    @functools.cache
    def load(cls, table: str) -> "RecordedCosts":
        """Read a shipped table.

        Raises:
            TargetError: there is no such table.
        """
        file = resources.files("lpcompile.backends.ort") / f"costs_{table}.toml"
        if not file.is_file():
            raise TargetError(f"no cost table is called '{table}'", hint="the shipped one is 'default'")
        return cls.parse(file.read_text())

    @classmethod
    def parse(cls, text: str) -> "RecordedCosts":
        """The table in a text that `tests.bench.kernel_costs` wrote."""
        data = tomllib.loads(text)
        kernels, elementwise = (
            {f"{kind}.{k}": v for kind, ks in data[part].items() for k, v in ks.items()}
            for part in ("kernels", "elementwise")
        )
        return cls(data["name"], kernels, elementwise, data["quantize"])

    def layer_ns(self, layer: LayerShape, kernel: str) -> float | None:
        """Nanoseconds of a layer on one thread; None where a shape is symbolic or the table has no such kernel."""
        kind = _kind(layer)
        c = self.kernels.get(f"{kind}.{kernel}")
        if c is None or layer.rows is None:
            return None
        patches = layer.rows * math.prod(layer.kernel) * layer.group if math.prod(layer.kernel) > 1 else 0
        return (
            c["fixed_ns"]
            + c.get("ns_per_mac", 0) * layer.rows * layer.inputs * layer.outputs
            + c.get("ns_per_output", 0) * layer.rows * layer.outputs
            + c.get("ns_per_patch", 0) * patches  # every group gathers its own
            + c.get("ns_per_weight", 0) * layer.inputs * layer.outputs
        )

    def few_rows_ns(self, layer: LayerShape, kernel: str) -> float | None:
        """Nanoseconds of a MatMul or Gemm with few rows, to compare kernels by; None where none were recorded."""
        c = self.kernels.get(f"{layer.rows}-row.{kernel}")
        if c is None or _kind(layer) != "matrix":
            return None
        return c["fixed_ns"] + c["ns_per_weight"] * layer.inputs * layer.outputs

    def elementwise_ns(self, op: str, elements: int, kernel: str) -> float | None:
        """Nanoseconds of an operator without weights; None where the table has none of that name."""
        c = self.elementwise.get(f"{op}.{kernel}")
        return None if c is None else c["fixed_ns"] + c["ns_per_element"] * elements

    def quantize_ns(self, elements: int) -> float:
        """Nanoseconds of one QuantizeLinear or DequantizeLinear."""
        return self.quantize["fixed_ns"] + self.quantize["ns_per_element"] * elements

    def pool_ns(self, elements: int) -> float:
        """Nanoseconds of a MaxPool on integers that come from floats: the runtime has no fast NCHW kernel for uint8."""
        return self.quantize["pool_ns_per_element"] * elements


def _kind(layer: LayerShape) -> str:
    if layer.op in ("Gemm", "MatMul"):
        return "matrix"
    return "depthwise" if layer.depthwise else "grouped" if layer.group > 1 else "dense"
