"""quantize_static() with the arguments of ONNX Runtime's own, so that a script changes by one import.

What an argument means there it means here, or it is refused with a hint, or a warning says what is done instead.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from lpcompile.api import Artefacts
from lpcompile.api import compile as compile_model
from lpcompile.argument_types import checked
from lpcompile.errors import CalibrationError, InputError, PassOptionError
from lpcompile.ir import io
from lpcompile.provenance import located
from lpcompile.registry import near_match

FORMS = {"QDQ": "qdq", "QOperator": "standard"}
METHODS = {"MinMax": "minmax", "Entropy": "minmax", "Percentile": "percentile"}
ACTIVATIONS = {"QUInt8": "uint8", "QInt8": "uint8", "QUInt4": "uint4"}
WEIGHTS = {"QInt8": "int8", "QUInt8": "int8", "QInt4": "int4", "QUInt4": "int4"}
STORED_OTHERWISE = {
    (
        "activation_type",
        "QInt8",
    ): "activations are stored as uint8: the same 256 levels under a zero point, which "
    "ONNX Runtime's CPU kernels run faster",
    ("weight_type", "QUInt8"): "weights are stored as int8, symmetric: zero points of weights cost time",
    (
        "calibrate_method",
        "Entropy",
    ): "ONNX Runtime counts as many bins as it has levels there, so the whole range is its only candidate: ranges are "
    "those of MinMax. passes='...,quantize-activations{rule=kl},...' of lpcompile.compile clips by entropy",
    ("weight_type", "QUInt4"): "weights are stored as int4, symmetric: zero points of weights cost time",
}
CPU = "CPUExecutionProvider"
REWRITES = "widen-float16,fold-constants,canonicalize,fold-batchnorm"

# Of `extra_options`: the value under which nothing is asked for that is not done, and what to do instead of another.
REFUSED: dict[str, tuple[Any, str]] = {
    "ActivationSymmetric": (False, "leave it out: zero points of activations cost nothing here"),
    "ActivationRestrictedAsymmetric": (False, "leave it out"),
    "WeightSymmetric": (True, "leave it out: weights are symmetric"),
    "EnableSubgraph": (False, "leave it out: bodies of control flow stay float"),
    "ForceQuantizeNoInputCheck": (False, "leave it out: what only moves data follows its neighbours"),
    "AddQDQPairToWeight": (False, "leave it out: weights are stored as integers"),
    "OpTypesToExcludeOutputQuantization": ([], "name nodes in nodes_to_exclude"),
    "DedicatedQDQPair": (False, "leave it out"),
    "QDQOpTypePerChannelSupportToAxis": ({}, "leave it out: channels are those of outputs"),
    "CalibTensorRangeSymmetric": (False, "leave it out"),
    "CalibMovingAverage": (False, "leave it out: ranges hold all samples"),
    "UseQDQContribOps": (False, "leave it out: standard operators are written"),
    "MinimumRealRange": (None, "leave it out"),
    "TensorQuantOverrides": (
        {},
        "edit decisions.toml and replay it: lpcompile.compile(model, decisions=FILE)",
    ),
    "QDQKeepRemovableActivations": (False, "leave it out"),
}
WITHOUT_EFFECT = {
    "MatMulConstBOnly": "only products with constants are quantised",
    "CalibStridedMinMax": "ranges are streamed, so memory is no matter",
    "CalibMaxIntermediateOutputs": "ranges are streamed, so memory is no matter",
    "CalibMovingAverageConstant": "there is no moving average",
    "SmoothQuantAlpha": "the scales of channels are chosen by the error of outputs",
    "SmoothQuantFolding": "scales are always folded",
    "QDQDisableWeightAdjustForInt32Bias": "biases are checked by themselves",
    "extra.Sigmoid.nnapi": "it is for another runtime",
}
HONOURED = ("CalibPercentile", "SmoothQuant")


@checked
def quantize_static(
    model_input: str | os.PathLike[str] | ModelProto,
    model_output: str | os.PathLike[str],
    calibration_data_reader: Any = None,
    quant_format: Any = "QDQ",
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    activation_type: Any = "QInt8",
    weight_type: Any = "QInt8",
    nodes_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: Any = "MinMax",
    calibration_providers: Sequence[Any] | None = None,
    extra_options: Mapping[str, Any] | None = None,
    calibration_cache_path: str | os.PathLike[str] | None = None,
) -> Artefacts:
    """Quantise a float model with static ranges and write it, called like `onnxruntime.quantization.quantize_static`.

    Types, formats and methods are given as ONNX Runtime's enumerations or as their names. The float model need not be
    pre-processed: constants, norms and no-ops are folded here. The result is verified in ONNX Runtime before it is
    written, and layers that fail stay float.

    Args:
        model_input: path or proto.
        model_output: path of the model to be written; one that exists is replaced.
        calibration_data_reader: an object with `get_next()` that gives {input: array} and at last None, or samples in
            any form that `lpcompile.compile` takes.
        quant_format: "QDQ", or "QOperator" for QLinear operators.
        op_types_to_quantize: operators that may become integers; None: all that can.
        per_channel: a scale for each output channel of weights instead of one for all.
        reduce_range: weights whose products x86 CPUs without VNNI add right; False: where this CPU is one of them.
        activation_type: "QUInt8" or "QUInt4"; "QInt8" is stored as uint8, with a warning.
        weight_type: "QInt8" or "QInt4"; unsigned ones are stored as these, with a warning.
        nodes_to_quantize: names of the only nodes that may become integers; None: all.
        nodes_to_exclude: names of nodes that stay float.
        use_external_data_format: weights in one file beside the model, whatever their size.
        calibrate_method: "MinMax", "Entropy" (whose ranges are those of MinMax, there as here) or "Percentile".
        calibration_providers: execution providers of the calibration; it runs on CPUs, with a warning if asked else.
        extra_options: "CalibPercentile" and "SmoothQuant" (channels scaled between layers) are honoured.
        calibration_cache_path: refused: `decisions.toml` serves for that.

    Returns:
        What `lpcompile.compile` gives: the model, the report, the decisions.

    Raises:
        PassOptionError: an argument asks for what cannot be done; the hint says what can.
        CalibrationError: there are no samples, or they do not fit.
        LpcompileError: see `lpcompile.errors` for the tree.
    """
    if calibration_cache_path is not None:
        raise _refused("calibration_cache_path", "compile with output=DIR, and replay DIR/decisions.toml")
    if calibration_data_reader is None:
        raise CalibrationError("there is no calibration_data_reader", hint="give an object with get_next()")
    notes: list[str] = []
    form = _known("quant_format", quant_format, FORMS, notes)
    fmt = _known("activation_type", activation_type, ACTIVATIONS, notes)
    weights = _known("weight_type", weight_type, WEIGHTS, notes)
    if weights == "int4" and form == "qdq":
        notes.append(
            'weight_type: QDQ holds 4-bit values in int8; quant_format="QOperator" keeps them packed'
        )
    rule = _known("calibrate_method", calibrate_method, METHODS, notes)
    extra = _extra(extra_options or {}, notes)
    names = [p if isinstance(p, str) else p[0] for p in calibration_providers or (CPU,)]
    if CPU not in names:
        notes.append(f"calibration_providers: the calibration runs with {CPU}")
    for note in notes:  # the default filter shows each once
        warnings.warn(f"quantize_static: {note}", UserWarning, stacklevel=3)  # through `checked`
    percentile = f", percentile={extra['CalibPercentile']}" if "CalibPercentile" in extra else ""
    pipeline = (
        REWRITES,
        "equalize" if extra.get("SmoothQuant") else "equalize{method=ranges}",
        f"quantize-activations{{format={fmt}, ends={fmt}, rule={rule}, matmul=static, cost=none{percentile}}}",
        f"quantize-weights{{format={weights}, granularity={'channel' if per_channel else 'tensor'}, "
        f"rule=output-mse, rounding={'gptq' if weights == 'int4' else 'kernel-sums'}}}",
        "correct-bias",
    )
    made = compile_model(
        model_input if isinstance(model_input, ModelProto) else os.fspath(model_input),
        calibration=calibration_data_reader,
        recipe="int8",
        passes=",".join(pipeline),
        emit=form,
        reduce_range="on" if reduce_range else "auto",
        keep_float=_kept(model_input, op_types_to_quantize, nodes_to_quantize, nodes_to_exclude),
    )
    threshold = {"threshold_bytes": 0} if use_external_data_format else {}
    io.save(made.model, model_output, **threshold)
    made.path = Path(model_output).parent
    return made


def _known(argument: str, given: Any, known: Mapping[str, str], notes: list[str]) -> str:
    name = str(getattr(given, "name", given))
    if name not in known:
        raise _refused(f"{argument}={name}", f"there are: {', '.join(known)}")
    if (argument, name) in STORED_OTHERWISE:
        notes.append(f"{argument}={name}: {STORED_OTHERWISE[argument, name]}")
    return known[name]


def _extra(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The options that are honoured; those that are not are refused, or a warning says why they change nothing."""
    for name, value in given.items():
        if name in REFUSED:
            same, hint = REFUSED[name]
            if value != same and (value or same):
                raise _refused(f"extra_options {name}={value!r}", hint)
        elif name in WITHOUT_EFFECT:
            notes.append(f"extra_options {name}: {WITHOUT_EFFECT[name]}")
        elif name not in HONOURED:
            known = [*HONOURED, *REFUSED, *WITHOUT_EFFECT]
            raise PassOptionError(f"there is no extra option '{name}'", hint=near_match(name, known))
    return {name: given[name] for name in HONOURED if name in given}


def _kept(
    model: Any,
    ops: Sequence[str] | None,
    only: Sequence[str] | None,
    excluded: Sequence[str] | None,
) -> tuple[str, ...]:
    """Names of the nodes that stay float."""
    rules: list[Callable[[Any], bool]] = []
    if ops:
        rules.append(lambda node: node.op not in ops)
    if only:
        rules.append(lambda node: node.name not in only)
    if not rules:
        return tuple(excluded or ())
    with located(model):
        nodes = io.load(model).nodes()
    names = [n.name for n in nodes]
    for name in only or ():
        if name not in names:
            raise InputError(f"there is no node '{name}'", hint=near_match(name, names))
    return tuple(dict.fromkeys([*(n.name for n in nodes if any(r(n) for r in rules)), *(excluded or ())]))


def _refused(what: str, hint: str) -> PassOptionError:
    return PassOptionError(f"quantize_static has no {what}", hint=hint)
