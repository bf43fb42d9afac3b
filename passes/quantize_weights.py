"""Round the weights of every planned layer to its format: channel scales, integer group scales, codes.

W^ = s_c * (m_g * i8[code]) with s_c stored in `scale-format` and m_g a 4-bit integer per group of inputs; scales are
quantised first and the codes chosen with the quantised scales. [architecture 3.1, 3.2]
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.input_moments import second_moments
from lpcompile.errors import FormatError
from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.group import has_group_table
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import Kernel, LayerPlan, WeightPlan
from lpcompile.quant.error import sqnr_db
from lpcompile.quant.fit import fit
from lpcompile.quant.kernel_rounding import round_kernels, tap_correlation
from lpcompile.quant.rows import to_rows
from lpcompile.records import PassReport

ACCUMULATOR = 2**31 - 1
BIAS_UNITS = 2.0**30  # |bias| stays below this many units of the accumulator
RULES = ("absmax", "percentile", "mse", "maxent", "l1norm", "output-mse")
GRANULARITIES = ("tensor", "channel", "group")
SCALE_FORMATS = ("float32", "ufloat8_e4m4")
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
            raise ValueError(f"{fmt.name} takes no integer group scales (they need an int8 image and at most 4 bits)")

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Choose codes for every layer whose kernel is not `float`."""
        report = PassReport(self.name)
        todo = [n for n in graph.layers() if graph.plan.layers.get(n.name, LayerPlan()).kernel is not Kernel.FLOAT]
        todo = [n for n in todo if graph.plan.layers[n.name].tensor is None]
        for done, node in enumerate(todo):
            ctx.progress("rounding weights", done, len(todo))
            moments = second_moments(node, ctx.statistics) if self.rule == "output-mse" else None
            found = None if node.inputs[0] is None else ctx.statistics.get(node.inputs[0].name)
            rho = self.rho if self.rho >= 0 or found is None else found.spatial_correlation
            self._round(graph, node, moments, max(0.0, rho), report)
        for node in graph.layers():
            layer = graph.plan.layers.get(node.name)
            if layer is not None and layer.kernel is Kernel.FLOAT:
                report.skip(node, layer.reason)
        return report

    def _round(
        self, graph: LpGraph, node: Node, moments: NDArray[np.float32] | None, rho: float, report: PassReport
    ) -> None:
        layer = graph.plan.layers[node.name]
        weight = node.inputs[1]
        assert weight is not None
        rows = to_rows(node.op, weight.values)
        if not rows.size:
            self._leave(graph, node, "it has no weights", report)
            return
        decided = layer.weight if layer.weight.format != "float32" else self._weight_plan(moments is not None)
        fmt = resolve(decided.format)
        if not np.isfinite(rows).all():
            raise FormatError(
                "weights are NaN or infinite", where=node.name, hint="repair the model, or keep the layer with --keep-float"
            )
        kernel, reason = self._kernel(layer, fmt, rows.shape[1])
        grouped = decided.granularity.startswith("group")
        tensor = fit(
            rows,
            fmt,
            granularity="group" if grouped else decided.granularity,
            group_size=int(decided.granularity.removeprefix("group")) if grouped else self.group_size,
            rule=decided.scale_rule,
            scale_format=decided.scale_format,
            importance=moments,
            min_scale=self._least_scale(graph, node, kernel),
        )
        if decided.rounding == "kernel-sums" and node.op == "Conv":
            window = weight.values.shape[2:]
            tensor = round_kernels(rows, tensor, int(np.prod(window)), tap_correlation(window, rho))
        decided = replace(decided, granularity=decided.granularity if tensor.has_integer_groups or not grouped else "channel")
        new = replace(layer, kernel=kernel, weight=decided, tensor=tensor, codes_sha256=tensor.digest())
        graph.plan = graph.plan.with_layer(node.name, replace(new, reason=reason or layer.reason))
        found = sqnr_db(rows, tensor.dequantize())
        report.change(node, f"{decided.format}, {decided.granularity}, {decided.scale_rule}", after=f"{found:.1f} dB")

    def _weight_plan(self, moments: bool) -> WeightPlan:
        granularity = f"group{self.group_size}" if self.granularity == "group" else self.granularity
        rule = "mse" if self.rule == "output-mse" and not moments else self.rule
        return WeightPlan(resolve(self.format).name, granularity, rule, self.scale_format, self.rounding)

    @staticmethod
    def _kernel(layer: LayerPlan, fmt: NumberFormat, inputs: int) -> tuple[Kernel, str]:
        """The planned kernel, or stored weights only where integers would not be exact."""
        if layer.kernel in (*INTEGER, Kernel.DYNAMIC):
            if fmt.image() is None:
                return Kernel.WEIGHT_ONLY, f"{fmt.name} has no int8 image: its weights are expanded to float when loaded"
            if inputs * 128 * 255 + BIAS_UNITS > ACCUMULATOR:
                return Kernel.WEIGHT_ONLY, f"{inputs} products of 8 bits could overflow the int32 accumulator"
        return layer.kernel, ""

    @staticmethod
    def _least_scale(graph: LpGraph, node: Node, kernel: Kernel) -> NDArray[np.float32] | None:
        """Channel scales below this would not let the int32 bias fit."""
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        x = node.inputs[0]
        if bias is None or x is None or kernel not in INTEGER:
            return None
        least = np.abs(bias.values.astype(np.float64)) / (graph.plan.activations[x.name].scale * BIAS_UNITS)
        return least.astype(np.float32)

    @staticmethod
    def _leave(graph: LpGraph, node: Node, reason: str, report: PassReport) -> None:
        layer = replace(graph.plan.layers[node.name], kernel=Kernel.FLOAT, reason=reason)
        graph.plan = graph.plan.with_layer(node.name, layer)
        report.skip(node, reason)
