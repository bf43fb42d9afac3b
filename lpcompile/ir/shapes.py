"""Types and shapes of every tensor, by ONNX's own inference on a copy without the large weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx
from onnx import ModelProto, ValueInfoProto

from lpcompile.errors import InputError
from lpcompile.ir import export, pool_shapes, reshape_sizes, same_shapes, value_info
from lpcompile.ir.slice_inputs import check_slices
from lpcompile.ir.store import Shape, is_constant

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph

# Shapes, axes, pads and the like: what inference reads the values of.
READ_BY_INFERENCE_BYTES = 1024


def infer(graph: "LpGraph", input_shapes: Mapping[str, Shape]) -> None:
    """Infer and store types and shapes.

    Raises:
        InputError: an input that is not there, or a shape of another rank or size than the model declares.
    """
    if input_shapes:
        _check_shapes(graph, input_shapes)
    tensors = graph._store.tensors
    for name, info in inferred_infos(graph, input_shapes).items():
        tensor = tensors.get(name)
        if tensor is not None and not is_constant(tensor):
            dtype, shape = value_info.read(info)
            known = _merged(tensor.shape, shape) if input_shapes else shape
            tensor.dtype, tensor.shape, tensor.info = (
                dtype or tensor.dtype,
                known,
                info if known == shape else None,
            )


def _merged(before: Shape | None, now: Shape | None) -> Shape | None:
    """What sizes of inputs leave: a file may know more of operators than inference does, and fixed sizes stay."""
    if before is None or now is None or len(before) != len(now):
        return before if now is None else now
    return tuple(
        b if isinstance(b, int) and not isinstance(n, int) else n for b, n in zip(before, now, strict=True)
    )


def inferred_infos(
    graph: "LpGraph", input_shapes: Mapping[str, Shape] | None = None
) -> dict[str, ValueInfoProto]:
    """Types and shapes that can be inferred, by tensor name; the graph is not changed, save for a note."""
    light = _to_infer(graph)
    if input_shapes:
        _fix_inputs(light, input_shapes)
    check_once(graph, light, input_shapes)
    try:
        found = _inferred(light)
        while pool_shapes.mend_first(light.graph, found):
            _drop_inferred(light)
            found = _inferred(light)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        graph.notes.append(f"shapes could not be inferred: {str(error).splitlines()[0]}")
        return {}
    return found


def check_once(
    graph: "LpGraph", light: ModelProto | None = None, given: Mapping[str, Shape] | None = None
) -> None:
    """Slices of a graph whose inputs have these sizes; what passes make of it shrinks no axis.

    Args:
        graph: it remembers sizes that were sound.
        light: of the graph, with the sizes of its inputs; made where it is not there.
        given: sizes in place of those of the graph.

    Raises:
        ModelError: an axis would have a negative size.
    """
    sizes = repr([(t.name, (given or {}).get(t.name, t.shape)) for t in graph._store.inputs])
    if sizes not in graph.sound_sizes:
        check_slices(_to_infer(graph) if light is None else light)
        graph.sound_sizes.add(sizes)


def drop_contradictions(graph: "LpGraph") -> None:
    """Where a file declares another type or shape of a tensor than what computes it gives, believe the latter.

    ONNX's inference believes the file, runtimes do not. A note names the tensors.
    """
    light = _to_infer(graph)
    for info in (*light.graph.value_info, *light.graph.output):
        info.ClearField("type")
    check_once(graph, light)
    try:
        found = _inferred(light)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return  # `infer` makes a note of it
    wrong = []
    for name, tensor in graph._store.tensors.items():
        if name not in found or is_constant(tensor) or any(tensor is t for t in graph._store.inputs):
            continue
        dtype, shape = value_info.read(found[name])
        if _differ(tensor.dtype, dtype) or _shapes_differ(tensor.shape, shape):
            tensor.dtype, tensor.shape, tensor.info = dtype, shape, found[name]
            wrong.append(name)
    if wrong:
        shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        graph.notes.append(f"the model declares types or shapes that it does not compute, of {shown}")


def _shapes_differ(declared: Shape | None, found: Shape | None) -> bool:
    if declared is None or found is None:
        return False
    if len(declared) != len(found):
        return True
    return any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(declared, found, strict=True)
    )


def _differ(declared: object, found: object) -> bool:
    return declared is not None and found is not None and declared != found


def _to_infer(graph: "LpGraph") -> ModelProto:
    light = light_proto(graph)
    _drop_returned_inputs(light)
    reshape_sizes.follow_targets(light)
    return light


def _inferred(light: ModelProto) -> dict[str, ValueInfoProto]:
    opset = next((o.version for o in light.opset_import if o.domain in ("", "ai.onnx")), 1)
    same_shapes.stand_in(light.graph, opset)
    found = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    infos = (*found.input, *found.value_info, *found.output)
    return {info.name: info for info in infos if info.type.WhichOneof("value")}


def light_proto(graph: "LpGraph") -> ModelProto:
    """The model with its large constants as typed graph inputs: cheap to copy and convert."""
    model, large = export.without_large_constants(
        graph, lambda w: w.released or w.nbytes > READ_BY_INFERENCE_BYTES
    )
    for name, weights in large.items():
        info = model.graph.input.add()
        info.name = name
        info.type.tensor_type.elem_type = weights.data_type
        info.type.tensor_type.shape.SetInParent()
        for size in weights.shape:
            info.type.tensor_type.shape.dim.add().dim_value = size
    value_info.forget_negative(model.graph)  # of bodies
    return model


def _check_shapes(graph: "LpGraph", input_shapes: Mapping[str, Shape]) -> None:
    declared = {t.name: t.shape for t in graph._store.inputs}
    for name, shape in input_shapes.items():
        if name not in declared:
            raise InputError(
                f"the model has no input {name!r}", hint=f"its inputs are: {', '.join(declared)}"
            )
        known = declared[name]
        if known is None:
            continue
        if len(known) != len(shape) or any(
            isinstance(d, int) and d != s for d, s in zip(known, shape, strict=True)
        ):
            have, new = ("x".join(str(d or "?") for d in dims) or "scalar" for dims in (known, shape))
            raise InputError(
                f"input '{name}' is {have}, which {new} does not fit",
                hint="--input-shape replaces symbolic dimensions; fixed ones must stay",
            )


def _fix_inputs(light: ModelProto, input_shapes: Mapping[str, Shape]) -> None:
    """Replace input shapes, and drop what was inferred from the old ones: it would hold the new ones back."""
    for info in light.graph.input:
        if info.name in input_shapes:
            tensor = info.type.tensor_type
            tensor.ClearField("shape")
            tensor.shape.SetInParent()
            for size in input_shapes[info.name]:
                value_info.add_dim(tensor.shape, size)
    _drop_inferred(light)


def _drop_returned_inputs(light: ModelProto) -> None:
    """Leave out outputs that are inputs: nothing infers them, and one declaration of a tensor is enough."""
    inputs = {info.name for info in light.graph.input}
    kept = [info for info in light.graph.output if info.name not in inputs]
    del light.graph.output[:]
    light.graph.output.extend(kept)


def _drop_inferred(light: ModelProto) -> None:
    for info in (*light.graph.value_info, *light.graph.output):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")
