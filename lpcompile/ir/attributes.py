"""Attributes of a node: ONNX attribute protos seen as a mapping of Python values."""

from collections.abc import Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from lpcompile.errors import ModelError, PassError
from lpcompile.ir.bodies import Body
from lpcompile.ir.weights import Weights, tensor_proto

_OPAQUE = {
    AttributeProto.SPARSE_TENSOR,
    AttributeProto.SPARSE_TENSORS,
    AttributeProto.TYPE_PROTO,
    AttributeProto.TYPE_PROTOS,
    AttributeProto.UNDEFINED,
}


class Attributes(MutableMapping[str, Any]):
    """`{name: value}` of one node, decoded on reading and kept as protos.

    Values are int, float, str (bytes where it is not UTF-8), lists of these, numpy arrays for tensors,
    `Body` for graphs; sparse tensors, types and attribute references stay protos. A list that is read
    is a fresh one: assign it to change the attribute. Assigned values take the type that the operator's
    schema declares, so that `attrs["alpha"] = 1` stays a float.
    """

    __slots__ = ("_domain", "_op", "_protos")

    def __init__(self, op: str, domain: str, protos: Mapping[str, AttributeProto] | None = None) -> None:
        self._op = op
        self._domain = domain
        self._protos: dict[str, AttributeProto] = dict(protos or {})

    def __getitem__(self, name: str) -> Any:
        return decode(self._protos[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self._protos[name] = encode(name, value, _declared_types(self._op, self._domain).get(name))

    def __delitem__(self, name: str) -> None:
        del self._protos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._protos)

    def __len__(self) -> int:
        return len(self._protos)

    def __contains__(self, name: object) -> bool:
        return name in self._protos

    def __repr__(self) -> str:
        return repr(dict(self))

    def protos(self) -> list[AttributeProto]:
        """The attributes as ONNX stores them."""
        return list(self._protos.values())

    def bodies(self) -> list[Body]:
        """Control-flow bodies among the values."""
        found: list[Body] = []
        for proto in self._protos.values():
            if proto.type == AttributeProto.GRAPH:
                found.append(Body(proto.name, proto.g))
            elif proto.type == AttributeProto.GRAPHS:
                found.extend(Body(proto.name, g) for g in proto.graphs)
        return found

    def copy(self) -> "Attributes":
        """A mapping of its own over the same protos, which nobody edits in place."""
        return Attributes(self._op, self._domain, self._protos)


def decode(proto: AttributeProto) -> Any:
    """The Python value of an attribute."""
    if proto.ref_attr_name or proto.type in _OPAQUE:
        return proto
    match proto.type:
        case AttributeProto.FLOAT:
            return proto.f
        case AttributeProto.INT:
            return proto.i
        case AttributeProto.STRING:
            return _text(proto.s)
        case AttributeProto.TENSOR:
            return Weights.of_proto(proto.t).array()
        case AttributeProto.GRAPH:
            return Body(proto.name, proto.g)
        case AttributeProto.FLOATS:
            return list(proto.floats)
        case AttributeProto.INTS:
            return list(proto.ints)
        case AttributeProto.STRINGS:
            return [_text(s) for s in proto.strings]
        case AttributeProto.TENSORS:
            return [Weights.of_proto(t).array() for t in proto.tensors]
        case AttributeProto.GRAPHS:
            return [Body(proto.name, g) for g in proto.graphs]
    raise ModelError(f"attribute {proto.name!r} has the unknown type {proto.type}")


def encode(name: str, value: Any, declared: int | None = None) -> AttributeProto:
    """An attribute proto of a Python value; `declared` is the type in the operator's schema, if known."""
    if isinstance(value, AttributeProto):
        proto = AttributeProto()
        proto.CopyFrom(value)
        proto.name = name
        return proto
    if isinstance(value, Body):
        value = value.proto
    elif isinstance(value, np.ndarray):
        listed = declared in {AttributeProto.INTS, AttributeProto.FLOATS}
        value = value.tolist() if listed else tensor_proto("", value)
    elif isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, list | tuple):
        value = [_plain(item) for item in value]
    if isinstance(value, bool):
        value = int(value)
    if declared == AttributeProto.FLOAT and isinstance(value, int):
        value = float(value)
    elif declared == AttributeProto.FLOATS and isinstance(value, list):
        value = [float(item) for item in value]
    elif isinstance(value, list) and not value and declared is None:
        declared = AttributeProto.INTS
    try:
        return onnx.helper.make_attribute(name, value, attr_type=declared if value == [] else None)
    except (TypeError, ValueError) as error:
        raise PassError(f"attribute {name!r} cannot hold {value!r}: {error}") from error


def _plain(item: Any) -> Any:
    if isinstance(item, Body):
        return item.proto
    if isinstance(item, np.ndarray):
        return tensor_proto("", item)
    return item.item() if isinstance(item, np.generic) else item


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


@lru_cache(maxsize=1024)
def _declared_types(op: str, domain: str) -> dict[str, int]:
    try:
        schema = onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    kinds: dict[str, Any] = {name: attribute.type for name, attribute in schema.attributes.items()}
    return {name: kind.value for name, kind in kinds.items()}
