"""A model without its weights: cheap to copy, convert and analyse."""

from typing import Any

from onnx import ModelProto

_HEAVY = {"initializer", "sparse_initializer"}


def skeleton(proto: ModelProto) -> ModelProto:
    """A copy of a model without initialisers."""
    light = ModelProto()
    _copy_fields(proto, light, skip={"graph", "training_info"})
    _copy_fields(proto.graph, light.graph, skip=_HEAVY)
    return light


def _copy_fields(source: Any, target: Any, skip: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name in skip:
            continue
        if field.message_type is not None or hasattr(value, "MergeFrom"):  # messages and repeated fields
            getattr(target, field.name).MergeFrom(value)
        else:
            setattr(target, field.name, value)
