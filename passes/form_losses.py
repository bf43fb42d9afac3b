"""What a layer's form leaves of its outputs, beside the same layer in FP8, on some positions of some calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcompile.analysis.layer_columns import layer_columns
from lpcompile.analysis.rounding_loss import ratio_db
from lpcompile.formats.arrays import F32
from lpcompile.ir.block_matmul import BLOCK, LARGEST_CODE
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.passes.float8_inputs import in_float8
from lpcompile.pipeline import PassContext
from lpcompile.plan import STATIC, ActivationPlan, Kernel, LayerPlan, QuantPlan
from lpcompile.quant.rows import to_rows


@dataclass(frozen=True, slots=True)
class FormLoss:
    """Output SQNR of one layer alone, in dB; None where nothing is lost.

    Attributes:
        before: as FP8.
        after: in its form.
    """

    before: float | None
    after: float | None

    @property
    def lost_db(self) -> float:
        """How much less is left than FP8 leaves; negative where it is more."""
        largest = float("inf")
        return (largest if self.before is None else self.before) - (
            largest if self.after is None else self.after
        )


def form_losses(graph: LpGraph, ctx: PassContext, exact: QuantPlan) -> dict[str, FormLoss]:
    """By layer with codes, where its products are known by its inputs and there are samples.

    Args:
        graph: float graph with the plan of the forms.
        ctx: samples.
        exact: the plan in FP8.
    """
    calibration = ctx.calibration
    if calibration is None or calibration.generated or ctx.observe is None:
        return {}
    layers = [n for n in graph.layers() if graph.plan.layers[n.name].tensor is not None]
    columns = layer_columns(graph, layers, ctx.observe, calibration.deciding, seed=ctx.seed)
    found = {}
    for node in layers:
        if node.name in columns:
            pair = [
                _output_db(node, plan.layers[node.name], plan.activations, columns[node.name])
                for plan in (exact, graph.plan)
            ]
            found[node.name] = FormLoss(*pair)
    return found


def _output_db(
    node: Node, layer: LayerPlan, activations: Mapping[str, ActivationPlan], calls: Sequence[F32]
) -> float | None:
    weight, source = node.inputs[1], node.inputs[0]
    assert weight is not None
    assert layer.tensor is not None
    assert source is not None
    x = np.concatenate(calls, axis=-1)
    plan = activations.get(source.name)
    read = np.concatenate([_as_read(part, layer.kernel, plan) for part in calls], axis=-1)
    w, rounded = (
        r.reshape(len(x), -1, r.shape[1])
        for r in (to_rows(node.op, weight.values), layer.tensor.dequantize())
    )
    wanted = w @ x
    error = rounded @ read - wanted
    if layer.bias_correction is not None:
        error += layer.bias_correction.reshape(len(x), -1, 1)
    signal, noise = (float(np.square(v, dtype=np.float64).sum()) for v in (wanted, error))
    return ratio_db(signal, noise)


def _as_read(x: F32, kernel: Kernel, plan: ActivationPlan | None) -> F32:
    """(G, K, P) columns of one call as the layer reads them."""
    if kernel is Kernel.FLOAT8 and plan is not None:
        return in_float8(x, plan.scale)
    if kernel in STATIC and plan is not None:
        codes = np.clip(
            np.rint(x / np.float32(plan.scale)), -plan.zero_point, plan.code_max - plan.zero_point
        )
        return np.asarray(codes * np.float32(plan.scale), np.float32)
    if kernel is Kernel.DYNAMIC:
        low, high = min(float(x.min(initial=0)), 0.0), max(float(x.max(initial=0)), 0.0)
        step = np.float32((high - low) / 255 or 1)
        return np.asarray(np.rint(x / step) * step, np.float32)
    if kernel is Kernel.NBITS:
        blocks = x.reshape(len(x), -1, BLOCK, x.shape[-1])
        step = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(LARGEST_CODE)
        held = np.rint(np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0)) * step
        return np.asarray(held.reshape(x.shape), np.float32)
    return x
