"""Rewrite passes as functions. Written by `python -m lpcompile.pass_stub`; do not edit."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from onnx import ModelProto

from lpcompile.planned_model import PlannedModel
from lpcompile.progress import Step
from lpcompile.records import PassReport

def widen_float16(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    copies: bool = True,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Spells float16 graphs in float32, so that their layers can run on integers."""

def canonicalize(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """One spelling for padding, clips, pools and matrix products; no-ops removed."""

def fold_constants(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    growth_bytes: int = 65536,
    input_values: Mapping[str, float] | None = None,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Constant expressions and static shape computations evaluated."""

def fold_batchnorm(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Batch norms and per-channel Mul and Add folded into the layer beside them."""

def merge_branches(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    most_loss_db: float = 0.0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Convolutions, norms and means of one tensor that are summed become one convolution."""

def split_prelu(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """PRelu as LeakyRelu, or as clamps, a scale by channel and a sum, which run on integers."""

def rotate(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    seed: int = 0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Residual streams of transformers rotated, folded into weights."""

def equalize(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    method: str = "output-error",
    absorb: bool = False,
    calibration: Any = None,
    target: str = "ort",
    seed: int = 0,
    threads: int = 0,
    keep_float: Sequence[str] = (),
    followed_by: str = "",
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Channels scaled between layers, so that rounding loses less."""

def smooth_inputs(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    multiply: bool = True,
    calibration: Any = None,
    target: str = "ort",
    seed: int = 0,
    threads: int = 0,
    keep_float: Sequence[str] = (),
    followed_by: str = "",
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Channels scaled before matrix products whose inputs lose much by one scale."""

def widen_sums(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    followed_by: str = "",
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> ModelProto:
    """Sums keep 8 bits where layers read the same tensor in 4."""

def quantize_activations(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    format: str = "uint8",
    ends: str = "uint8",
    rule: str = "auto",
    percentile: float = 99.99,
    matmul: str = "auto",
    cost: str = "time",
    calibration: Any = None,
    target: str = "ort",
    machine: str | None = None,
    seed: int = 0,
    threads: int = 0,
    keep_float: Sequence[str] = (),
    reduce_range: str = "auto",
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, float] | None = None,
    followed_by: str = "",
    decisions: str | PathLike[str] | None = None,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Decide what runs on integers; static ranges from streamed statistics; tie groups."""

def quantize_embeddings(
    planned: PlannedModel,
    *,
    format: str = "int8",
    least_db: float = 35.0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Tables whose rows are looked up in int8 with a scale a row, or in half precision."""

def quantize_recurrent(
    planned: PlannedModel,
    *,
    kernel: str = "auto",
    least_db: float = 22.0,
    least_weight_db: float = 30.0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """LSTM, GRU and RNN with int8 weights; an LSTM runs on integers where its outputs allow it."""

def snap_sums(
    planned: PlannedModel,
    *,
    bits: int = 4,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Scales of what is summed, so that sums multiply by few bits."""

def search_ranges(
    planned: PlannedModel,
    *,
    loss: str = "logits",
    samples: int = 256,
    runs: int = 120,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Search ranges of activations by output noise; kept if they win on other samples."""

def dual_precision(
    model: str | PathLike[str] | bytes | ModelProto,
    *,
    group_size: int = 64,
    rule: str = "levels",
    order: str = "gar",
    full_scale: int = 240,
    activations: str = "float8_e4m3fn",
    least_input_db: float = 24.0,
    least_inputs: int = 16,
    moments: str = "float8_e4m3fn",
    damping: float = 0.01,
    calibration: Any = None,
    target: str = "ort",
    machine: str | None = None,
    seed: int = 0,
    threads: int = 0,
    keep_float: Sequence[str] = (),
    reduce_range: str = "auto",
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_values: Mapping[str, float] | None = None,
    followed_by: str = "",
    decisions: str | PathLike[str] | None = None,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Int4 weights that are read as FP8, FP8 activations (DPQ)."""

def run_on_integers(
    planned: PlannedModel,
    *,
    matrices: str = "auto",
    cost: str = "time",
    least_db: float = 20.0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Integer kernels for int4 weights that are read as FP8: fast on CPUs, which lack FP8."""

def assign_formats(
    planned: PlannedModel,
    *,
    formats: str = "fixp4+posit4+nf4+float4_e2m1fn+pot4+lut4+int8",
    granularities: str = "channel+group8+group16+group32+group64+group128",
    method: str = "exact",
    sensitivity: str = "fisher",
    loss: str = "logits",
    samples: int = 256,
    rounding: str = "gptq",
    ranks: str = "",
    activations: str = "auto",
    joint: int = 8,
    nearest: bool = False,
    avg_bits: float = 0.0,
    bytes: float = 0.0,
    ace: float = 0.0,
    acev2: float = 0.0,
    energy_pj: float = 0.0,
    posit_fraction: float = 0.0,
    layer_formats: Sequence[str] = (),
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Choose a number format for every layer: least predicted loss within a budget."""

def distribution_heterogeneous(
    planned: PlannedModel,
    *,
    depthwise: str = "int8",
    format: str = "fixp4",
    ends: str = "int8",
    last: str = "",
    pot4: str = "never",
    weight: float = 0.1,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Depthwise layers and both ends in 8 bits, pointwise ones in 4; powers of two on request."""

def quantize_weights(
    planned: PlannedModel,
    *,
    format: str = "int8",
    granularity: str = "channel",
    group_size: int = 32,
    rule: str = "absmax",
    scale_format: str = "float32",
    rounding: str = "nearest",
    sweeps: int = 2,
    rho: float = -1.0,
    peak_db: float = 0.0,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Round weights to their format; channel scales at 8 bits, integer group scales."""

def insert_lora(
    planned: PlannedModel,
    *,
    rank: int = 8,
    method: str = "lowrank-first",
    factors: str = "int8",
    most_macs: float = 0.5,
    sweeps: int = 0,
    lowering: str = "",
    keep: str = "better",
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Repair few-bit weights by low-rank side paths with 8-bit factors."""

def correct_bias(
    planned: PlannedModel,
    *,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Take the mean error of rounded weights out of the bias."""

def reestimate_batchnorm(
    planned: PlannedModel,
    *,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Batch norms that stayed give the float network's means and variances again."""

def requantize_weights(
    planned: PlannedModel,
    *,
    segments: int = 0,
    finalists: int = -1,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Round weights again for the inputs that the rounded network gives; empirical biases."""

def quantnorm(
    planned: PlannedModel,
    *,
    mode: str = "dyadic",
    bits: int = 8,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Requantisation multipliers, norms inside, in few bits or as shifts."""

def double_quantize(
    planned: PlannedModel,
    *,
    mode: str = "dyadic",
    bits: int = 8,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Channel scales as powers of two, in few bits, or in steps of the largest; weights follow."""

def reconstruct_blocks(
    planned: PlannedModel,
    *,
    iterations: int = 400,
    batch: int = 16,
    method: str = "ste",
    learning_rate: float = 0.01,
    pull: float = 20.0,
    drop: float = 0.5,
    ranges: str = "narrow",
    loss: str = "fisher",
    joined: int = 3,
    samples_mb: int = 512,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Learn codes, biases and narrow ranges block by block, from the float model's tensors."""

def tune_weights(
    planned: PlannedModel,
    *,
    epochs: int = 20,
    batch: int = 16,
    optimiser: str = "adam",
    learning_rate: float = 0.0,
    schedule: str = "cosine",
    warm_up: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip: float = 0.0,
    estimator: str = "auto",
    table_estimator: str = "",
    steepness: float = 5.0,
    outside: str = "clipped",
    scales: str = "auto",
    loss: str = "auto",
    labels: str = "labels",
    batchnorm: str = "frozen",
    ranges: str = "fixed",
    required: bool = True,
    calibration: Any = None,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Retrain rounded weights and biases on the samples; they come back as codes."""

def tune_scales(
    planned: PlannedModel,
    *,
    epochs: int = 10,
    batch: int = 16,
    learning_rate: float = 0.001,
    loss: str = "kl-or-mse",
    ranges: str = "narrow",
    required: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Train scales, biases, norms and ranges together on the samples; the codes stay."""

def tune_factors(
    planned: PlannedModel,
    *,
    epochs: int = 10,
    batch: int = 16,
    learning_rate: float = 0.01,
    loss: str = "auto",
    samples: int = 0,
    select: str = "kl",
    required: bool = True,
    report: Callable[[PassReport], object] | None = None,
    progress: Callable[[Step], object] | None = None,
) -> PlannedModel:
    """Train the factors of side paths on the samples that rounding changes most; the codes stay."""
