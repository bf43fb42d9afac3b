"""Sizes behind a Reshape whose target the graph computes, as exports of open sizes write it."""

from onnx import ModelProto

from lpcompile.ir.slice_inputs import walk

# The last opset in which ONNX's inference does not follow a computed target, and the first in which it does.
_DEAF, _FOLLOWS = 13, 14


def follow_targets(light: ModelProto) -> None:
    """Call opset 13 opset 14, for inference alone: but for batch norms in training, its operators infer the same.

    Args:
        light: changed.
    """
    if any(n.op_type == "BatchNormalization" and len(n.output) > 1 for n in walk(light.graph)):
        return
    for entry in light.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version == _DEAF:
            entry.version = _FOLLOWS
