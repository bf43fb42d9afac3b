"""The same model in fewer bytes: what a file says twice, and names that only the file's own nodes read.

Small networks are mostly structure: docs/decisions/0034. No number and no operator changes, nodes and the tensors
between them keep their names. Layers are calls of `lpcompile` functions whose inputs have names of their own:

==========================  ==========================================================================
w, m, t, s, u, b + number   codes, multipliers, tables, scales or their codes, their unit, bias of one call
l, i + number               levels and `image_unit` of a format
a, z + number               scale and zero point of activations
==========================  ==========================================================================
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from lpcompile.ir import value_info
from lpcompile.ir.bodies import bodies_of, captured_names, local_names
from lpcompile.ir.function import DOMAIN
from lpcompile.ir.skeleton import skeleton

_OF_CALL = {
    "codes": "w",
    "multipliers": "m",
    "tables": "t",
    "w_scale": "s",
    "scale_codes": "s",
    "scale_unit": "u",
    "bias": "b",
    "group_scales": "s",
    "first_scale": "u",
    "steps": "p",
}
_OF_FORMAT = {"levels": "l", "image_unit": "i"}
_SCALE, _ZERO = "a", "z"
_TOLD_BY_CALLS = ("kernel", "format", "granularity", "scale_format")
_LEAST_SHARED_BYTES = 64
_READ_BY_INFERENCE_BYTES = 1024
_MADE_UP = "unk__"  # how ONNX's inference names a size that it does not know
_MOST_ANCHORS = 8  # tensors from which inference starts again; each is one inference of the whole model


def lighten(proto: ModelProto) -> None:
    """Make a model with calls of `lpcompile` functions smaller in place."""
    functions = {f.name: f for f in proto.functions if f.domain == DOMAIN}
    calls = [n for n in proto.graph.node if n.domain == DOMAIN and n.op_type in functions]
    for node in calls:
        _drop_defaults(node)
    _drop_told(proto)
    _share(proto, calls)
    _rename(proto, _short_names(proto, calls, functions))
    _drop_inferred(proto)


def _drop_defaults(node: NodeProto) -> None:
    """Attributes that say what holds without them."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kernel = list(attributes.get("weight_shape", ()))[2:]
    defaults: dict[str, Any] = {"group": 1, "strides": [1] * len(kernel), "dilations": [1] * len(kernel)}
    if kernel:
        defaults |= {"pads": [0] * 2 * len(kernel), "kernel_shape": kernel}
    if "group_size" in attributes or attributes.get("granularity") == b"channel":
        defaults["granularity"] = attributes.get("granularity")
    kept = [a for a in node.attribute if a.name not in defaults or attributes[a.name] != defaults[a.name]]
    if len(kept) < len(node.attribute):
        copies = [_copied(a) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _drop_told(proto: ModelProto) -> None:
    """Metadata of calls, and of layers that read expanded weights, that name and attributes of the call say too."""
    filled = {name for n in proto.graph.node if n.domain == DOMAIN for name in n.output}
    told = {f"lpcompile.{key}" for key in _TOLD_BY_CALLS}
    for node in proto.graph.node:
        expanded = len(node.input) > 1 and node.input[1] in filled and not node.domain
        if node.domain != DOMAIN and not (expanded and any(p.key in told for p in node.metadata_props)):
            continue
        drop = told | {"lpcompile.rounding"} if expanded else told
        kept = [_copied(p) for p in node.metadata_props if p.key not in drop]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def _share(proto: ModelProto, calls: Iterable[NodeProto]) -> None:
    """One initialiser for equal scalars that calls read, and for equal constants of some size, as masks are."""
    fixed = _fixed(proto)
    read = {name for n in calls for name in n.input}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed, repeated = {}, []
    for i, tensor in enumerate(proto.graph.initializer):
        scalar = not tensor.dims and tensor.name in read
        if tensor.name not in fixed and (scalar or len(tensor.raw_data) >= _LEAST_SHARED_BYTES):
            key = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest())
            name = first.setdefault(key, tensor.name)
            if name != tensor.name and tensor.raw_data:
                renamed[tensor.name] = name
                repeated.append(i)
    for i in reversed(repeated):
        del proto.graph.initializer[i]
    _rename(proto, renamed)


def _short_names(
    proto: ModelProto, calls: Iterable[NodeProto], functions: Mapping[str, FunctionProto]
) -> dict[str, str]:
    """New names of initialisers that calls read."""
    stored = {t.name for t in proto.graph.initializer}
    fixed = _fixed(proto)
    taken = fixed | stored | {name for n in proto.graph.node for name in (*n.input, *n.output)}
    found: dict[str, str] = {}
    counts = dict.fromkeys((*_OF_FORMAT.values(), _SCALE, _ZERO), 0)
    for number, node in enumerate(calls):
        for formal, name in zip(functions[node.op_type].input, node.input, strict=False):
            if name not in stored or name in fixed or name in found:
                continue
            letter = _letter(formal)
            if letter in counts:
                counts[letter] += 1
            short = f"{letter}{counts.get(letter, number)}"
            if short not in taken and len(short) < len(name):
                found[name] = short
                taken.add(short)
    return found


def _letter(formal: str) -> str:
    letter = _OF_CALL.get(formal) or _OF_FORMAT.get(formal)
    return letter or (_ZERO if formal.endswith("zero_point") else _SCALE)


def _fixed(proto: ModelProto) -> set[str]:
    """Names that somebody outside the nodes of the graph reads."""
    graph = proto.graph
    names = {v.name for v in (*graph.input, *graph.output)}
    for node in graph.node:
        for body in bodies_of(node):
            names |= {*captured_names(body.proto), *local_names(body.proto)}
    for annotation in graph.quantization_annotation:
        names |= {annotation.tensor_name, *(e.value for e in annotation.quant_parameter_tensor_names)}
    return names


def _rename(proto: ModelProto, names: Mapping[str, str]) -> None:
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]


def _drop_inferred(proto: ModelProto) -> None:
    """Types and shapes of inner tensors that ONNX's own inference gives from the rest of the file.

    Where it loses a symbolic axis, the first tensor after that keeps what is known, and inference goes on from there.
    """
    known = {v.name: v for v in proto.graph.value_info}
    light = skeleton(proto)
    del light.graph.value_info[:]
    decoded = _decoded(proto)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) <= _READ_BY_INFERENCE_BYTES:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(_typed(tensor, sized=tensor.name not in decoded))
    kept: list[ValueInfoProto] = []
    for _ in range(_MOST_ANCHORS):
        try:
            inferred = {
                v.name: v for v in shape_inference.infer_shapes(light, data_prop=True).graph.value_info
            }
        except (RuntimeError, ValueError, shape_inference.InferenceError):
            return
        lost = [v for name, v in known.items() if not _says_as_much(inferred.get(name), v)]
        if not lost:
            break
        kept.append(lost[0])
        light.graph.value_info.append(lost[0])
    else:
        kept += lost[1:]
    copies = [_copied(v) for v in kept]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(copies)


def _says_as_much(found: ValueInfoProto | None, known: ValueInfoProto) -> bool:
    """Whether inference found all that is known; names that it makes up stand for sizes that nobody knows."""
    if found is None:
        return False
    a, b = (value_info.read(v) for v in (found, known))
    if a[0] != b[0] or (a[1] is None) != (b[1] is None) or len(a[1] or ()) != len(b[1] or ()):
        return False
    sizes = zip(a[1] or (), b[1] or (), strict=True)
    return all(k is None or str(k).startswith(_MADE_UP) or f == k for f, k in sizes)


def _decoded(proto: ModelProto) -> set[str]:
    """Bytes that calls alone read: attributes tell the shape of what they decode them to.

    ONNX's inference would follow every single byte through the body, as if it were a shape: 5 s for 100 MB.
    """
    read = {name for n in proto.graph.node if n.domain == DOMAIN for name in n.input}
    read -= {name for n in proto.graph.node if n.domain != DOMAIN for name in n.input} | _fixed(proto)
    return read & {t.name for t in proto.graph.initializer if t.data_type == TensorProto.UINT8}


def _typed(tensor: TensorProto, *, sized: bool) -> ValueInfoProto:
    return helper.make_tensor_value_info(
        tensor.name, tensor.data_type, list(tensor.dims) if sized else [None] * len(tensor.dims)
    )
