"""A low-rank side path for the weights of one layer: whether it may have one, and its factors by method.

================  ====================================================================================
svd               of the residual W - W^, all inputs alike
lqer              of the residual, inputs by their root mean squares
qera              of the residual, by the full matrix of the inputs' moments: the least output error there is
loftq             codes and factors in turn, input-blind: for layers whose inputs are not known [li2023]
lowrank-first     qera of W itself, codes of what it leaves, then qera of the residual
================  ====================================================================================
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lpcompile.analysis.macs import layer_shape
from lpcompile.errors import TargetError
from lpcompile.formats.arrays import F32, F64, Real
from lpcompile.formats.planned import format_of
from lpcompile.ir.node import Node
from lpcompile.passes.path_form import MERGED_FORM, PathForm
from lpcompile.plan import (
    APART,
    CONCAT_IN,
    DUAL_SCALES,
    EIGHTHS,
    MERGED,
    SIDE_LOWERINGS,
    STATIC,
    Kernel,
    WeightPlan,
)
from lpcompile.quant.accumulators import fits_any_weights
from lpcompile.quant.concat_path import HiddenSample
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.low_rank import low_rank
from lpcompile.quant.merged_rounding import merged_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.side_path import LARGEST
from lpcompile.target import Target

WITHOUT_METRIC = "loftq"  # what becomes of methods that weigh inputs where inputs are not known
BY_METRIC = ("qera", "lqer", "lowrank-first")
ALTERNATIONS = 5
_NARROWINGS = 2  # less of large factors has room beside the finer steps of what they leave
_FINEST = 4  # steps of a main path to one of the merged image
OPS = ("Conv", "Gemm", "MatMul")
Round = Callable[[F32], QuantizedTensor]


def mac_ratio(rank: int, outputs: int, inputs: int) -> float:
    """Products of a side path over those of its layer, r (m + n) / (m n)."""
    return rank * (outputs + inputs) / max(1, outputs * inputs)


def lowering_of(target: Target | None, asked: str = "") -> str:
    """How side paths run on a target, one of `plan.SIDE_LOWERINGS`; the target's own where nothing is asked for.

    Raises:
        TargetError: the target has no such lowering.
    """
    known = SIDE_LOWERINGS if target is None else target.rules.side_paths
    if asked and asked not in known:
        name = "" if target is None else target.name
        raise TargetError(
            f"target '{name}' has no lowering '{asked}' of side paths",
            hint=f"it has: {', '.join(known)}",
        )
    return asked or known[0]


def side_path_obstacle(
    node: Node, kernel: Kernel, weight: WeightPlan, *, rank: int, most: float, lowering: str = MERGED
) -> str:
    """Why a layer takes no side path; empty where it may.

    Args:
        node: the layer.
        kernel: how it runs.
        weight: how its weights are stored.
        rank: of the path.
        most: the largest `mac_ratio`.
        lowering: one of `plan.SIDE_LOWERINGS`.
    """
    if kernel is Kernel.FLOAT:
        return "its weights stay float"
    if node.op not in OPS:
        return f"a {node.op} has no rows of outputs that a side path could add to"
    shape = layer_shape(node)
    if shape.group > 1:
        return f"each of its {shape.group} groups would need factors of its own"
    if lowering in APART and kernel not in (*STATIC, Kernel.DYNAMIC, Kernel.NBITS):
        return f"it reads floats, and a {lowering} path reads integers"
    if lowering == CONCAT_IN and node.op not in ("Gemm", "MatMul"):
        return f"a {node.op} reads windows, which have no room for the numbers of a path"
    if lowering == CONCAT_IN and not fits_any_weights(shape.inputs + 2 * rank):
        return f"with a path its sums are of more products than int32 holds: {shape.inputs} without"
    if kernel is Kernel.NBITS:
        return "its codes stay packed when it runs, so nothing can be merged into them"
    if weight.scale_format == DUAL_SCALES:
        return EIGHTHS
    fmt = format_of(weight.format)
    if fmt.bits > 4:
        return f"{fmt.name} has little to repair"
    if fmt.image() is None or weight.codebooks:
        return "its weights have no int8 image of one table that a path could be merged into"
    ratio = mac_ratio(rank, shape.outputs, shape.inputs)
    if ratio > most:
        return f"a path of rank {rank} has {ratio:.2f} of its products, above {most:g}"
    return ""


def with_side_path(
    rows: F32,
    tensor: QuantizedTensor,
    decided: WeightPlan,
    metric: InputMetric | None,
    rounded: Round,
    sample: HiddenSample | None = None,
) -> tuple[QuantizedTensor, WeightPlan]:
    """The tensor with a side path where that brings it nearer to the weights, and the plan that is carried out.

    Args:
        rows: the real weights, (C, K).
        tensor: as they were rounded without one.
        decided: rank and method.
        metric: of the layer's errors; methods that need one become `loftq` where there is none.
        rounded: rounds other weights as the layer's were, with scales of their own.
        sample: of what the layer reads.
    """
    method = WITHOUT_METRIC if metric is None and decided.side_path in BY_METRIC else decided.side_path
    matrix = None if metric is None else damped_matrix(metric)
    own = _weighing(method, matrix)
    form = PathForm(decided.side_lowering, sample)
    found = [tensor, repaired(rows, tensor, decided.rank, own, form)]
    if method == "lowrank-first":
        main, taken = tensor.main, low_rank(rows, decided.rank, own)
        for _ in range(_NARROWINGS if form.lowering == CONCAT_IN else 1):
            taken = form.held(main, *taken)
            main = rounded(np.asarray(rows - taken[0] @ taken[1], np.float32))
        found += _settled(rows, main, *taken, metric, form)
        b, a = low_rank(rows - main.dequantize(), decided.rank, own)
        found += _settled(rows, main, b, a, metric, form)
    elif method == "loftq":
        found += _alternated(rows, rounded, tensor, decided.rank, form)
    error = _judge(rows, matrix)
    best = min(found, key=lambda t: error(t) + (0 if matrix is None else form.noise(t)))
    if best.side is None:
        return tensor, decided.alone
    return best, replace(decided, side_path=method)


def rounded_again(
    target: F32,
    tensor: QuantizedTensor,
    decided: WeightPlan,
    metric: InputMetric,
    min_scale: F32 | None,
    sample: HiddenSample | None = None,
) -> list[QuantizedTensor]:
    """The tensor for other weights: codes beside the path as it is, and with new paths for these codes.

    Args:
        target: the weights, (C, K).
        tensor: with a side path.
        decided: method and lowering.
        metric: of the layer's errors.
        min_scale: (C,) least scales of the merged image; what falls below is left out.
        sample: of what the layer reads.
    """
    path, form = tensor.side, PathForm(decided.side_lowering, sample)
    assert path is not None
    b, a = path.factors()
    b = b * tensor.main.int8_image()[1].reshape(-1, 1)
    least = least_beside(target, min_scale)
    main = metric.rounded(np.asarray(target - b @ a, np.float32), tensor.main, min_scale=least)
    own = _weighing(decided.side_path, damped_matrix(metric))
    found = _settled(target, main, b, a, metric, form)
    left = low_rank(target - main.dequantize(), path.rank, own)
    found += _settled(target, main, *left, metric, form)
    return [t for t in found if t.side is not None and keeps_scales(t, min_scale)]


def least_beside(rows: F32, min_scale: F32 | None) -> F32:
    """(C,) least scales of a main path: a row that its side path holds whole leaves nothing, and needs no finer steps.

    The merged image of a row is in 127 steps, whatever those of the main path are.

    Args:
        rows: the real weights, (C, K).
        min_scale: (C,) least ones for other reasons.
    """
    floor = np.abs(rows).max(axis=1, initial=0) / np.float32(_FINEST * LARGEST)
    return np.asarray(floor if min_scale is None else np.maximum(floor, min_scale), np.float32)


def keeps_scales(tensor: QuantizedTensor, min_scale: F32 | None) -> bool:
    """Whether a bias still fits its int32: no scale of the image is below the least one."""
    return min_scale is None or not bool((tensor.int8_image()[1] < min_scale).any())


def repaired(
    rows: F32, tensor: QuantizedTensor, rank: int, metric: F64 | None, form: PathForm = MERGED_FORM
) -> QuantizedTensor:
    """The tensor with the factors that repair its codes best; as it is where there is nothing to repair."""
    main = tensor.main
    return form.beside(main, *low_rank(rows - main.dequantize(), rank, metric))


def damped_matrix(metric: InputMetric) -> F64:
    """(K, K) the matrix of a layer without groups, damped as for its codes: too few samples span no more of it."""
    h = np.array(metric.matrix[0], np.float64)
    at = np.arange(len(h))
    h[at, at] += metric.damping * h[at, at].mean()
    return h


def _weighing(method: str, matrix: F64 | None) -> F64 | None:
    """What a method weighs inputs by."""
    if method == "lqer" and matrix is not None:
        return np.diagonal(matrix).copy()
    return matrix if method in BY_METRIC else None


def _judge(rows: F32, matrix: F64 | None) -> Callable[[QuantizedTensor], float]:
    """The output error of a tensor, in float32: to tell tensors apart."""
    h = None if matrix is None else matrix.astype(np.float32)

    def loss(tensor: QuantizedTensor) -> float:
        errors = rows - tensor.dequantize()
        return float(np.sum((errors if h is None else errors @ h) * errors, dtype=np.float64))

    return loss


def _settled(
    rows: F32, main: QuantizedTensor, b: Real, a: Real, metric: InputMetric | None, form: PathForm
) -> list[QuantizedTensor]:
    """Codes beside factors in 8 bits, as they are, and chosen again to make up for the rounding of the factors.

    Large directions that were taken out of the weights are held by 8 bits, and so is the merged image; what these lose
    is left to the codes.
    """
    found = form.beside(main, b, a)
    if found.side is None or metric is None:
        return [found]
    return [found, merged_codes(rows, found, metric.factors)]


def _alternated(
    rows: F32, rounded: Round, tensor: QuantizedTensor, rank: int, form: PathForm
) -> list[QuantizedTensor]:
    found = []
    for _ in range(ALTERNATIONS):
        b, a = low_rank(rows - tensor.main.dequantize(), rank)
        tensor = repaired(rows, rounded(np.asarray(rows - b @ a, np.float32)), rank, None, form)
        found.append(tensor)
    return found
