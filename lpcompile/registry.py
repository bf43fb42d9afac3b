"""Names to "module:attribute": passes and targets, loaded on use so that `--help` stays instant."""

import difflib
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lpcompile.errors import PipelineError, TargetError

if TYPE_CHECKING:
    from lpcompile.pipeline import Pass
    from lpcompile.target import Target

PASSES = {
    "widen-float16": "lpcompile.passes.widen_float16:WidenFloat16",
    "canonicalize": "lpcompile.passes.canonicalize:Canonicalize",
    "fold-constants": "lpcompile.passes.fold_constants:FoldConstants",
    "fold-batchnorm": "lpcompile.passes.fold_batchnorm:FoldBatchnorm",
    "merge-branches": "lpcompile.passes.merge_branches:MergeBranches",
    "split-prelu": "lpcompile.passes.split_prelu:SplitPrelu",
    "rotate": "lpcompile.passes.rotate:Rotate",
    "equalize": "lpcompile.passes.equalize:Equalize",
    "smooth-inputs": "lpcompile.passes.smooth_inputs:SmoothInputs",
    "widen-sums": "lpcompile.passes.widen_sums:WidenSums",
    "quantize-activations": "lpcompile.passes.quantize_activations:QuantizeActivations",
    "quantize-embeddings": "lpcompile.passes.quantize_embeddings:QuantizeEmbeddings",
    "quantize-recurrent": "lpcompile.passes.quantize_recurrent:QuantizeRecurrent",
    "snap-sums": "lpcompile.passes.snap_sums:SnapSums",
    "search-ranges": "lpcompile.passes.search_ranges:SearchRanges",
    "dual-precision": "lpcompile.passes.dual_precision:DualPrecision",
    "run-on-integers": "lpcompile.passes.run_on_integers:RunOnIntegers",
    "assign-formats": "lpcompile.passes.assign_formats:AssignFormats",
    "distribution-heterogeneous": "lpcompile.passes.distribution_heterogeneous:DistributionHeterogeneous",
    "quantize-weights": "lpcompile.passes.quantize_weights:QuantizeWeights",
    "insert-lora": "lpcompile.passes.insert_lora:InsertLora",
    "correct-bias": "lpcompile.passes.correct_bias:CorrectBias",
    "reestimate-batchnorm": "lpcompile.passes.reestimate_batchnorm:ReestimateBatchnorm",
    "requantize-weights": "lpcompile.passes.requantize_weights:RequantizeWeights",
    "quantnorm": "lpcompile.passes.quantnorm:Quantnorm",
    "double-quantize": "lpcompile.passes.double_quantize:DoubleQuantize",
    "reconstruct-blocks": "lpcompile.passes.reconstruct_blocks:ReconstructBlocks",
    "tune-weights": "lpcompile.passes.tune_weights:TuneWeights",
    "tune-scales": "lpcompile.passes.tune_scales:TuneScales",
    "tune-factors": "lpcompile.passes.tune_factors:TuneFactors",
}
TARGETS = {
    "ort": "lpcompile.backends.ort.target:OrtTarget",
    "cim": "lpcompile.backends.cim.target:CimTarget",
}
WITH_MACHINES = ("cim",)


def _load(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)


SHOWN = 40  # names of a hint
NODES = 6  # of a network, whose names are long


def near_match(word: str, words: list[str], most: int = SHOWN) -> str:
    """A hint that names the nearest of `words`, or `most` of them."""
    near = difflib.get_close_matches(word, words, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return f"there are: {', '.join(words[:most])}{more}"


def pass_class(name: str) -> "type[Pass]":
    """The class of a pass by its kebab-case name.

    Raises:
        PipelineError: there is no such pass.
    """
    if name not in PASSES:
        raise PipelineError(f"no pass is called '{name}'", hint=near_match(name, list(PASSES)))
    found: type[Pass] = _load(PASSES[name])
    return found


def all_passes() -> "dict[str, type[Pass]]":
    """Every pass by name, in pipeline order."""
    return {name: pass_class(name) for name in PASSES}


def function_names() -> dict[str, str]:
    """Name of the function of each pass -> name of the pass."""
    return {name.replace("-", "_"): name for name in PASSES}


def pass_function(name: str) -> Callable[..., Any]:
    """A pass as a function, by its kebab-case name; see `pass_functions`."""
    made: Callable[..., Any] = _load("lpcompile.pass_functions:function_of")(name)
    return made


def target(name: str) -> "Target":
    """A target by its name.

    Raises:
        TargetError: there is no such target.
    """
    if name not in TARGETS:
        raise TargetError(f"no target is called '{name}'", hint=near_match(name, list(TARGETS)))
    found: Target = _load(TARGETS[name])()
    return found


def split_pipeline(text: str) -> list[tuple[str, dict[str, str]]]:
    """Pipeline text as (pass name, option texts): "fold-batchnorm,quantize-weights{format=nf4,rule=mse}".

    Raises:
        PipelineError: the text does not have that form.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for item in filter(None, re.split(r",(?![^{]*\})", "".join(text.split()))):
        match = re.fullmatch(r"([a-z0-9-]+)(?:\{([^{}]*)\})?", item)
        if match is None:
            raise PipelineError(
                f"cannot read '{item}' in the pipeline", hint='write "pass-name{option=value,option=value}"'
            )
        options: dict[str, str] = {}
        for part in filter(None, (match[2] or "").split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise PipelineError(
                    f"option '{part}' of pass '{match[1]}' has no value", hint="write option=value"
                )
            if key in options:
                raise PipelineError(
                    f"option '{key}' of pass '{match[1]}' is given twice", hint="keep one of them"
                )
            options[key] = value
        found.append((match[1], options))
    if not found:
        raise PipelineError("the pipeline is empty", hint="name at least one pass, or use the recipe 'fp32'")
    return found
