"""Round the weights of every planned layer to its format: channel scales, integer group scales, codes.

W^ = s_c * (m_g * i8[code]) with s_c stored in `scale-format` and m_g a 4-bit integer per group of inputs; scales are
quantised first and the codes chosen with the quantised scales. [architecture 3.1, 3.2]
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import second_moments
from lpcompile.analysis.rounding_loss import column_energy, output_sqnr_db, ratio_db
from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.formats.group import has_group_table
from lpcompile.ir import block_matmul
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel, LayerPlan, WeightPlan
from lpcompile.quant.fit import fit
from lpcompile.quant.kernel_rounding import round_kernels, tap_correlation
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

ACCUMULATOR = 2**31 - 1
BIAS_UNITS = 2.0**30  # |bias| stays below this many units of the accumulator
RULES = ("absmax", "percentile", "mse", "maxent", "l1norm", "output-mse")
GRANULARITIES = ("tensor", "channel", "group")
SCALE_FORMATS = ("float32", "ufloat8_e4m4")
THREADS = 2
ROUNDINGS = ("nearest", "kernel-sums")
INTEGER = (Kernel.INTEGER, Kernel.FLOAT_OUT)


@dataclass(frozen=True, slots=True)
class QuantizeWeights(Pass):
    """Round to nearest with scale search; the options are those of the recipe."""

    name: ClassVar[str] = "quantize-weights"
    summary: ClassVar[str] = "round weights to their format; channel scales at 8 bits, integer group scales"
    exact: ClassVar[bool] = False
    requires: ClassVar[frozenset[Fact]] = frozenset({Fact.ACTIVATIONS_QUANTIZED})
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.WEIGHTS_QUANTIZED})

    format: str = "int8"
    granularity: str = "channel"
    group_size: int = 32
    rule: str = "absmax"
    scale_format: str = "float32"
    rounding: str = "nearest"
    rho: float = -1.0  # below 0: measured for each layer

    def __post_init__(self) -> None:
        for key, value, known in (
            ("rule", self.rule, RULES),
            ("granularity", self.granularity, GRANULARITIES),
            ("rounding", self.rounding, ROUNDINGS),
            ("scale-format", self.scale_format, SCALE_FORMATS),
        ):
            if value not in known:
                raise ValueError(f"option '{key}' is one of {', '.join(known)}, not '{value}'")
        if self.group_size < 2:
            raise ValueError(f"option 'group-size' is at least 2, not {self.group_size}")
        fmt = resolve(self.format)
        if self.granularity == "group" and not has_group_table(fmt):
            raise ValueError(
                f"{fmt.name} takes no integer group scales (they need an int8 image and at most 4 bits)"
            )

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Choose codes for every layer whose kernel is not `float`."""
        report = PassReport(self.name)
        todo = [
            n for n in graph.layers() if graph.plan.layers.get(n.name, LayerPlan()).kernel is not Kernel.FLOAT
        ]
        todo = [n for n in todo if graph.plan.layers[n.name].tensor is None]
        # Layers are independent and numpy releases the interpreter lock: two at a time.
        with ThreadPoolExecutor(THREADS) as pool:
            for done, (node, layer) in enumerate(
                zip(todo, pool.map(lambda n: self._rounded(graph, n, ctx.statistics), todo), strict=True)
            ):
                ctx.progress("rounding weights", done + 1, len(todo))
                graph.plan = graph.plan.with_layer(node.name, layer)
                if layer.tensor is None:
                    continue
                w = layer.weight
                found = "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f} dB"
                report.change(node, f"{w.format}, {w.granularity}, {w.scale_rule}, {w.rounding}", after=found)
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name, LayerPlan())
            if layer.kernel is Kernel.FLOAT:
                report.skip(node, layer.reason)
        return report

    def _rounded(self, graph: LpGraph, node: Node, statistics: Mapping[str, TensorStatistics]) -> LayerPlan:
        layer = graph.plan.layers[node.name]
        weight = node.inputs[1]
        assert weight is not None
        rows = to_rows(node.op, weight.values)
        if not rows.size:
            return replace(layer, kernel=Kernel.FLOAT, reason="it has no weights")
        if not np.isfinite(rows).all():
            raise FormatError(
                "weights are NaN or infinite",
                where=node.name,
                hint="repair the model, or keep the layer with --keep-float",
            )
        moments = second_moments(node, statistics)
        decided = layer.weight if layer.weight.format != "float32" else self.planned_weights()
        if decided.scale_rule == "output-mse" and moments is None:
            decided = replace(decided, scale_rule="mse")
        fmt = resolve(decided.format)
        kernel, reason = self._kernel(layer, decided, rows.shape[1])
        grouped = decided.granularity.startswith("group")
        tensor = fit(
            rows,
            fmt,
            granularity="group" if grouped else decided.granularity,
            group_size=int(decided.granularity.removeprefix("group")) if grouped else self.group_size,
            rule=decided.scale_rule,
            scale_format=decided.scale_format,
            importance=moments,
            min_scale=least_scale(graph, node, kernel),
        )
        if grouped and not tensor.has_integer_groups:
            decided = replace(decided, granularity="channel")  # one group a row
        if decided.rounding == "kernel-sums":
            tensor = self._keep_kernel_sums(node, rows, tensor, statistics)
        signal, noise = column_energy(rows, tensor.dequantize())
        return replace(
            layer,
            kernel=kernel,
            weight=decided,
            tensor=tensor,
            codes_sha256=tensor.digest(),
            reason=reason or layer.reason,
            weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
            local_sqnr_db=None
            if moments is None
            else output_sqnr_db(signal, noise, moments, self._input_step(graph, node, kernel)),
        )

    def _keep_kernel_sums(
        self,
        node: Node,
        rows: NDArray[np.float32],
        tensor: QuantizedTensor,
        statistics: Mapping[str, TensorStatistics],
    ) -> QuantizedTensor:
        weight, x = node.inputs[1], node.inputs[0]
        found = None if x is None else statistics.get(x.name)
        rho = self.rho if self.rho >= 0 or found is None else found.spatial_correlation
        if node.op != "Conv" or weight is None or rho <= 0:
            return tensor
        window = weight.values.shape[2:]
        return round_kernels(rows, tensor, int(np.prod(window)), tap_correlation(window, rho))

    @staticmethod
    def _input_step(graph: LpGraph, node: Node, kernel: Kernel) -> float:
        """Step of the input's quantiser; 0 where the layer reads floats."""
        x = node.inputs[0]
        plan = None if x is None or kernel not in INTEGER else graph.plan.activations.get(x.name)
        return 0.0 if plan is None else plan.scale

    def planned_weights(self) -> WeightPlan:
        """How layers that bring no decision of their own are stored."""
        granularity = f"group{self.group_size}" if self.granularity == "group" else self.granularity
        return WeightPlan(resolve(self.format).name, granularity, self.rule, self.scale_format, self.rounding)

    @staticmethod
    def _kernel(layer: LayerPlan, weight: WeightPlan, inputs: int) -> tuple[Kernel, str]:
        """The planned kernel, or one that can hold the weights exactly."""
        fmt = resolve(weight.format)
        if layer.kernel is Kernel.NBITS:
            books = bool(weight.codebooks)
            if reason := block_matmul.obstacle(fmt, weight.granularity, inputs, codebooks=books):
                layer = replace(
                    layer, kernel=Kernel.DYNAMIC, reason=f"its codes do not stay packed: {reason}"
                )
        if layer.kernel in (*INTEGER, Kernel.DYNAMIC):
            if fmt.image() is None:
                return (
                    Kernel.WEIGHT_ONLY,
                    f"{fmt.name} has no int8 image: its weights are expanded to float when loaded",
                )
            if inputs * 128 * 255 + BIAS_UNITS > ACCUMULATOR:
                return Kernel.WEIGHT_ONLY, f"{inputs} products of 8 bits could overflow the int32 accumulator"
        return layer.kernel, layer.reason


def least_scale(graph: LpGraph, node: Node, kernel: Kernel) -> NDArray[np.float32] | None:
    """Channel scales below this would not let the int32 bias fit."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    x = node.inputs[0]
    if bias is None or x is None or kernel not in INTEGER:
        return None
    least = np.abs(bias.values.astype(np.float64)) / (graph.plan.activations[x.name].scale * BIAS_UNITS)
    return least.astype(np.float32)
