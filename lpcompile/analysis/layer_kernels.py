"""How a layer can run on a target: integers with static or dynamic ranges, stored weights only, floats."""

from dataclasses import dataclass, replace

import numpy as np

from lpcompile.analysis.macs import layer_shape
from lpcompile.analysis.packed_kernel import packed_choice
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.target import CostModel, Target

TYPICAL_ROWS = 64  # a sentence
FLOAT_GAIN = 1.1  # floats only where they are clearly faster
MATRICES = ("MatMul", "Gemm")
NBITS_REASON = (
    "4-bit codes stay packed (MatMulNBits, accuracy level 4: inputs are int8 by blocks of 32 at run time)"
)
STATIC_GAIN = 1.5  # dynamic ranges never clip, so a static range must be clearly faster


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel and why."""

    kernel: Kernel
    reason: str = ""
    unpacked: str = ""  # why 4-bit codes of a matrix do not stay packed


def choose_kernels(
    graph: LpGraph,
    target: Target,
    *,
    calibrated: bool,
    matmul: str,
    timed: bool = True,
    weights: WeightPlan | None = None,
) -> dict[str, KernelChoice]:
    """The kernel of every layer, in execution order.

    Args:
        graph: with shapes.
        target: its kernels and its recorded table.
        calibrated: whether there are samples to take static ranges from.
        matmul: "static", "dynamic" or "auto".
        timed: whether the table has a say where there is no data, and on packed codes.
        weights: how they will be stored; None where that is not known, and then no codes stay packed.
    """
    found = {
        n.name: _choose(n, target, calibrated=calibrated, matmul=matmul, timed=timed) for n in graph.layers()
    }
    if weights is not None and timed and matmul == "auto" and target.cost_model is not None:
        return {n.name: _packed(n, found[n.name], target, weights) for n in graph.layers()}
    return found


def _packed(node: Node, choice: KernelChoice, target: Target, weights: WeightPlan) -> KernelChoice:
    """The same choice, or packed codes where these are faster."""
    static = choice.kernel is Kernel.INTEGER
    if node.op not in MATRICES or not (static or choice.kernel is Kernel.DYNAMIC):
        return choice
    packed = packed_choice(node, target, weights, static=static)
    if not packed.yes:
        return replace(choice, unpacked=packed.reason)
    return KernelChoice(Kernel.NBITS, f"{NBITS_REASON}: {packed.reason}")


def _choose(node: Node, target: Target, *, calibrated: bool, matmul: str, timed: bool) -> KernelChoice:
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None
    if weight.dtype != np.dtype(np.float32):
        return KernelChoice(Kernel.FLOAT, f"weights are {weight.dtype}, not float32")
    if 0 in weight.dims:
        return KernelChoice(Kernel.FLOAT, "it has no weights")
    if weight.is_output or weight.used_in_subgraph:
        return KernelChoice(Kernel.FLOAT, "its weights are also read from outside")
    if x is not None and x.dtype not in (None, np.dtype(np.float32)):
        return KernelChoice(Kernel.FLOAT, f"its input is {x.dtype}, not float32")
    shape = layer_shape(node)
    rank = len(weight.dims)
    if node.op in MATRICES and rank != 2:
        return KernelChoice(Kernel.FLOAT, f"its weight has {rank} axes; a matrix is needed")
    support = target.supports(node.op, resolve("int8"))
    stored = Kernel.WEIGHT_ONLY if target.rules.expands_weights else Kernel.FLOAT
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if not support.yes:
        return KernelChoice(stored, support.reason)
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return KernelChoice(stored, "padding depends on the input shape, which is not known")
    if node.op == "Gemm" and (
        node.attrs.get("transA", 0) or node.attrs.get("transB", 0) or node.attrs.get("alpha", 1) != 1
    ):
        return KernelChoice(stored, "the Gemm is not in the form x @ W + b")
    if bias is not None and (
        not bias.is_constant or bias.dims != (shape.outputs,) or node.attrs.get("beta", 1) != 1
    ):
        return KernelChoice(stored, "its bias is not one constant an output channel")
    costs = target.cost_model
    if not calibrated:
        if node.op == "Conv":
            return KernelChoice(Kernel.WEIGHT_ONLY, "no calibration data, so its activations stay float")
        if timed and costs is not None and matmul == "auto" and _float_pays(node, costs):
            return KernelChoice(Kernel.WEIGHT_ONLY, f"faster as floats without data ({costs.name})")
        return KernelChoice(Kernel.DYNAMIC, "no calibration data, so the range is measured at run time")
    if costs is None or node.op != "MatMul" or matmul == "static":
        return KernelChoice(Kernel.INTEGER, "has an integer kernel and calibrated ranges")
    if matmul == "dynamic" or _dynamic_pays(node, costs):
        return KernelChoice(Kernel.DYNAMIC, "the range is measured at run time: " + costs.name)
    return KernelChoice(Kernel.INTEGER, "has an integer kernel and calibrated ranges")


def _float_pays(node: Node, costs: CostModel) -> bool:
    """By the recorded table; unknown rows are taken as its typical number, and unknown times as no gain."""
    shape = layer_shape(node)
    if shape.rows is None:
        shape = replace(shape, rows=TYPICAL_ROWS)
    as_float, dynamic = costs.layer_ns(shape, "float"), costs.layer_ns(shape, "dynamic")
    return as_float is not None and dynamic is not None and as_float * FLOAT_GAIN < dynamic


def _dynamic_pays(node: Node, costs: CostModel) -> bool:
    """By the recorded table; where the number of rows is not known, for the table's own typical number."""
    shape = layer_shape(node)
    if shape.rows is None:
        shape = replace(shape, rows=TYPICAL_ROWS)
    static, dynamic = costs.layer_ns(shape, "float-out"), costs.layer_ns(shape, "dynamic")
    return static is not None and dynamic is not None and dynamic < STATIC_GAIN * static
