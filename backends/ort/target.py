"""Stock ONNX Runtime on CPUs: u8 activations, s8 weights per channel, 4-bit codes unpacked when loaded."""

from typing import ClassVar

from lpcompile.backends.ort.costs import RecordedCosts
from lpcompile.backends.ort.float_layers import keep_floats
from lpcompile.backends.ort.legalize import legalize
from lpcompile.backends.ort.saturation import adds_pairs_in_int16, saturation_assumption
from lpcompile.formats.base import NumberFormat
from lpcompile.ir import block_matmul
from lpcompile.ir.channel_norm import channel_norm
from lpcompile.ir.domain import ELEMENTWISE
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.inline import inlined
from lpcompile.ir.lighten import lighten
from lpcompile.ir.movement import CLAMPS, DATA_INPUTS, data_inputs
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.materialise import materialise
from lpcompile.plan import SIDE_LOWERINGS
from lpcompile.target import INTEGER_FORM, CostModel, Emitted, Options, Rules, Support, Target

INTEGER_LAYERS = ("Conv", "Gemm", "MatMul")
MIN_OPSET = 13  # per-axis DequantizeLinear
# operators whose uint8 kernels came with a later opset
UINT8_SINCE = {"HardSwish": 14}


class OrtTarget(Target):
    """The `ort` target."""

    name: ClassVar[str] = "ort"
    rules: ClassVar[Rules] = Rules(side_paths=SIDE_LOWERINGS)

    def __init__(self, table: str = "default") -> None:
        self._costs = RecordedCosts.load(table)

    @property
    def cost_model(self) -> CostModel:
        """The recorded cost table."""
        return self._costs

    def supports(self, op: str, fmt: NumberFormat) -> Support:
        """Conv, Gemm and MatMul have integer kernels for every format with an int8 image."""
        if op not in INTEGER_LAYERS:
            return Support(False, f"ONNX Runtime has no integer kernel for {op}")
        if fmt.image() is None:
            return Support(False, f"{fmt.name} has no int8 image")
        return Support(True)

    def packed_obstacle(self, fmt: NumberFormat, granularity: str, inputs: int) -> str:
        """MatMulNBits holds 4-bit integers with a scale for each block of 32 inputs."""
        return block_matmul.obstacle(fmt, granularity, inputs)

    def supports_elementwise(self, op: str, opset: int) -> Support:
        """Moves run on codes, clamps on codes, arithmetic between DequantizeLinear and QuantizeLinear."""
        if op not in ELEMENTWISE and op not in DATA_INPUTS and op not in CLAMPS:
            return Support(False, f"no integer form of {op}")
        if opset < UINT8_SINCE.get(op, MIN_OPSET):
            return Support(False, f"{op} takes uint8 from opset {UINT8_SINCE.get(op, MIN_OPSET)} on")
        return Support(True)

    def refuses(self, node: Node, opset: int) -> str:
        """Norms by channel run as convolutions of one product a channel, the others as `supports_elementwise` says."""
        norm = channel_norm(node)
        if norm is None:
            return super().refuses(node, opset)
        if opset < MIN_OPSET:
            return f"{node.op} takes uint8 from opset {MIN_OPSET} on"
        (x,) = data_inputs(node)
        if _has_twin(node, x):
            return "with the scale or shift beside it, it would round twice"
        if norm.trailing < 1 or norm.trailing != len(x.shape or ()) - 2:
            return "its channels are not those of a convolution"
        return ""

    def default_recipe(self) -> str:
        """`auto`: a format for every layer."""
        return "auto"

    def adds_pairs(self) -> bool:
        """As one product in the runtime shows."""
        return adds_pairs_in_int16()

    def assumptions(self, graph: LpGraph) -> list[dict[str, str]]:
        """Exact sums of products, which some CPUs do not have."""
        return saturation_assumption(graph)

    def emit(self, graph: LpGraph, options: Options) -> Emitted:
        """The model that ONNX Runtime loads, in the asked form."""
        form = options.emit if options.emit in ("qdq", "fp8-qdq") else "functions"
        result, weight_bytes = materialise(graph, form)
        keep_floats(result)
        if form == "functions":  # other runtimes may have the fusion in a fast form
            legalize(result)
        proto = result.to_proto()
        if options.emit not in ("functions", INTEGER_FORM) and proto.functions:
            proto = inlined(proto)
        elif proto.functions:
            lighten(proto)
        return Emitted(proto, weight_bytes)


def _has_twin(node: Node, x: Value) -> bool:
    """Whether a Mul, Div, Add or Sub of constants stands next to another one."""
    if node.op == "BatchNormalization":
        return False
    beside = [x.producer, *(n for v in node.outputs if v is not None for n in v.consumers)]
    return any(n is not None and n.op != "BatchNormalization" and channel_norm(n) is not None for n in beside)
