"""Compute-in-memory chips: everything between the first and the last layer in 8-bit integers, `dyadic` requantisation.

The model is an integer reference graph that stock ONNX Runtime runs; a program computes the same, bit for bit.
"""

import functools
from typing import ClassVar

from lpcompile.backends.cim.build import DEFAULT_MACHINE, build
from lpcompile.backends.cim.layer_energy import layer_energy
from lpcompile.backends.cim.machine import MachineDescription
from lpcompile.errors import TargetError
from lpcompile.formats.base import NumberFormat
from lpcompile.ir.forms import FORM_OPS, Form, form_of
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.inline import inlined
from lpcompile.ir.movement import operands
from lpcompile.ir.node import Node
from lpcompile.materialise.dyadic import materialise_dyadic
from lpcompile.progress import Progress, no_progress
from lpcompile.quant.dyadic_numbers import DyadicNumbers
from lpcompile.target import CostModel, Emitted, LayerShape, Options, Products, Rules, Support, Target, Trial

INTEGER_LAYERS = ("Conv", "Gemm", "MatMul")
MIN_OPSET = 13  # moves of uint8, DequantizeLinear by channel


class CimTarget(Target):
    """The `cim` target."""

    name: ClassVar[str] = "cim"
    rules: ClassVar[Rules] = Rules(
        fills=True,
        tables=True,
        float_out=INTEGER_LAYERS,
        expands_weights=False,
        group_scales=False,
        needs_ranges=True,
        falls_back=False,
        has_machines=True,
        batch_only=True,
        emit_forms=("functions", "standard"),
        side_paths=("separate",),
        dyadic=True,
    )

    @property
    def cost_model(self) -> CostModel | None:
        """None: what can run on the machine does."""
        return None

    def supports(self, op: str, fmt: NumberFormat) -> Support:
        """Conv, Gemm and MatMul with weights in a format that has an int8 image."""
        if op not in INTEGER_LAYERS:
            return Support(False, f"the machine has no {op}, so it stays on the host")
        if fmt.image() is None:
            return Support(False, f"{fmt.name} has no int8 image, which the machine's bit planes hold")
        return Support(True)

    def layer_energy_pj(
        self,
        layer: LayerShape,
        weight_format: NumberFormat,
        activation_bits: int,
        *,
        group_size: int = 0,
        machine: str | None = None,
        resident: bool = True,
    ) -> float:
        """An estimate by shape alone; what it assumes stands in `layer_energy.py`."""
        support = self.supports(layer.op, weight_format)
        if not support.yes:
            raise TargetError(support.reason, hint="layers on the host have no energy of the machine")
        found = _machine(machine or DEFAULT_MACHINE)
        return layer_energy(
            found, layer, weight_format, activation_bits, group_size=group_size, resident=resident
        ).energy_pj

    def supports_elementwise(self, op: str, opset: int) -> Support:
        """Moves, clamps, sums, products, pools, and functions of one activation by table."""
        if op in INTEGER_LAYERS:
            return Support(False, f"a {op} without constant weights stays on the host")
        if op not in FORM_OPS:
            return Support(False, f"the machine has no {op}, so it stays on the host")
        if opset < MIN_OPSET:
            return Support(False, f"{op} takes uint8 from opset {MIN_OPSET} on")
        return Support(True)

    def refuses(self, node: Node, opset: int) -> str:
        """Why a node without weights stays on the host; empty where it need not."""
        support = self.supports_elementwise(node.op, opset)
        if not support.yes:
            return support.reason
        form = form_of(node)
        if form is None:
            return f"{node.op}: neither a sum, a product, a table nor a scale by channel"
        if form is Form.MOVE and any(v.is_constant for v in operands(node)):
            return "one operand is a constant"
        return _shape_reason(node) if form in (Form.POOL, Form.GLOBAL_POOL) else ""

    def runs_last(self, node: Node) -> bool:
        """Clamps: what they leave fits 8 bits well. Other last work has better operands on floats, from int32 sums."""
        return form_of(node) is Form.CLAMP

    def default_recipe(self) -> str:
        """`auto`: a format for every layer."""
        return "auto"

    def emit(self, graph: LpGraph, options: Options) -> Emitted:
        """The integer reference graph, and its integers."""
        reference, weight_bytes, numbers = materialise_dyadic(graph)
        proto = reference.to_proto()
        shown = inlined(proto) if options.emit == "standard" and proto.functions else proto
        return Emitted(shown, weight_bytes, reference, numbers, proto)

    def build(
        self,
        reference: LpGraph,
        numbers: DyadicNumbers,
        options: Options,
        trial: Trial | None,
        progress: Progress = no_progress,
    ) -> Products:
        """The program for a machine, and what it costs."""
        return build(reference, numbers, options, trial, progress)


@functools.lru_cache(maxsize=8)
def _machine(name_or_path: str) -> MachineDescription:
    return MachineDescription.load(name_or_path)


def _shape_reason(node: Node) -> str:
    """Why the windows of a pool are not known; empty where they are."""
    x = node.inputs[0]
    shape = None if x is None else x.shape
    known = shape is not None and all(isinstance(d, int) for d in shape[1:])
    return "" if known else "the sizes of its input are not known"
