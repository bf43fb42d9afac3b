"""A layer whose codes were learned: what of it can be, where it starts, and what comes back into its plan."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.input_moments import second_moments
from lpcompile.analysis.rounding_loss import column_energy, ratio_db
from lpcompile.errors import PassError
from lpcompile.formats.arrays import F32
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.pipeline import Pass, PassContext
from lpcompile.plan import LayerPlan
from lpcompile.provenance import data_sha256
from lpcompile.quant.granularity import PerGroup
from lpcompile.quant.rows import to_rows
from lpcompile.tuning.layer_arrays import TrainedLayer


def fixed_codes(plan: LayerPlan) -> str:
    """Why the codes of a layer cannot be trained; empty where they can."""
    assert plan.tensor is not None
    if plan.weight.codebooks:
        return "its codebooks were fitted to its weights"
    if plan.tensor.zeros is not None:
        return "its weights have zero points"
    if plan.tensor.side is not None:
        return "a side path repairs its codes as they are"
    if isinstance(plan.tensor.granularity, PerGroup) and not plan.tensor.has_integer_groups:
        return "its group scales are no integers"
    return ""


def weight_of(node: Node) -> NDArray[np.float32]:
    """The float weights of a layer."""
    weight = node.inputs[1]
    if weight is None:
        raise PassError("a layer without weights", where=node.name)
    return np.asarray(weight.values)


def bias_now(node: Node, plan: LayerPlan) -> F32:
    """(C,) the planned bias, zeros where there is none."""
    found = planned_bias(node, plan)
    assert plan.tensor is not None
    return np.zeros(len(plan.tensor.codes), np.float32) if found is None else np.asarray(found, np.float32)


def _own_bias(node: Node, like: F32) -> F32:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return np.zeros_like(like) if value is None else np.asarray(value.values, np.float32)


def output_spread(node: Node, ctx: PassContext) -> F32 | None:
    """(C,) standard deviations of a layer's outputs, of uncorrelated inputs; None where they are not known."""
    moments = second_moments(node, ctx.statistics)
    if moments is None:
        return None
    rows = to_rows(node.op, weight_of(node))
    return np.asarray(np.sqrt(np.square(rows) @ moments), np.float32)


def with_learned(plan: LayerPlan, layer: TrainedLayer, values: Mapping[str, F32], how: str) -> LayerPlan:
    """The plan with codes and bias of a state of the training.

    Args:
        plan: of the layer before.
        layer: what was trained.
        values: arrays by "layer/role".
        how: what is added to the reason, once.
    """
    tensor, bias = layer.round(values), layer.real_bias(values)
    signal, noise = column_energy(to_rows(layer.op, weight_of(layer.node)), tensor.dequantize())
    return replace(
        plan,
        tensor=tensor,
        codes_sha256=tensor.digest(),
        bias_correction=plan.bias_correction if bias is None else bias - _own_bias(layer.node, bias),
        reason=plan.reason if how in plan.reason else f"{plan.reason}; {how}".lstrip("; "),
        weight_sqnr_db=ratio_db(float(signal.sum()), float(noise.sum())),
        local_sqnr_db=None,
    )


def made_for(learner: Pass, graph: LpGraph, ctx: PassContext) -> dict[str, str]:
    """What a checkpoint of a training fits: options, plan, samples, seed."""
    assert ctx.calibration is not None
    digest = hashlib.sha256()
    for name, plan in graph.plan.layers.items():
        digest.update(f"{name} {plan.kernel} {plan.codes_sha256}\n".encode())
        digest.update(b"" if plan.bias_correction is None else plan.bias_correction.tobytes())
    for name, activation in graph.plan.activations.items():
        digest.update(f"{name} {activation}\n".encode())
    for name, norm in graph.plan.norms.items():
        digest.update(f"{name} {norm.constants_sha256}\n".encode())
    options = {k: str(getattr(learner, k.replace("-", "_"))) for k in learner.options()}
    about = {
        "model": digest.hexdigest()[:16],
        "data": data_sha256(ctx.calibration)[:16],
        "seed": str(ctx.seed),
    }
    return {**options, **about}
