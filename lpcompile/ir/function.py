"""Write model-local functions: a body of standard ops with attribute references.

ONNX Runtime inlines every function at load and checks its body against the *model's* opset, not the function's own,
so every body is built for the opset of the model it goes into (docs/decisions/0003).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "lpcompile"
DOMAIN_VERSION = 1


class Ref:
    """A reference to an attribute of the function, used in place of a node attribute's value."""

    def __init__(self, name: str, kind: "AttributeProto.AttributeType") -> None:
        self.name = name
        self.kind = kind


def ints(name: str) -> Ref:
    """A reference to a list-of-integers attribute."""
    return Ref(name, AttributeProto.INTS)


def integer(name: str) -> Ref:
    """A reference to an integer attribute."""
    return Ref(name, AttributeProto.INT)


def real(name: str) -> Ref:
    """A reference to a float attribute."""
    return Ref(name, AttributeProto.FLOAT)


class FunctionBuilder:
    """Collects the nodes of one function body; tensor names are unique within it."""

    def __init__(self, name: str, inputs: Sequence[str], outputs: Sequence[str], doc: str) -> None:
        self.name, self.inputs, self.outputs, self.doc = name, list(inputs), list(outputs), doc
        self.nodes: list[NodeProto] = []
        self.attributes: list[str] = []
        self._imports: dict[str, int] = {}
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, op: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the name of that output."""
        if out is None:
            self._count += 1
            out = f"t{self._count}"  # names stand in every file
        plain = {k: v for k, v in attributes.items() if not isinstance(v, Ref)}
        node = helper.make_node(op, list(inputs), [out], domain=domain or None, **plain)
        if domain:
            self._imports[domain] = DOMAIN_VERSION
        for key, ref in attributes.items():
            if isinstance(ref, Ref):
                node.attribute.append(AttributeProto(name=key, type=ref.kind, ref_attr_name=ref.name))
                self.declare(ref.name)
        self.nodes.append(node)
        return out

    def split(self, value: str, sizes: str, out: Sequence[str]) -> None:
        """Append a Split along the first axis, into named parts."""
        self.nodes.append(helper.make_node("Split", [value, sizes], list(out), axis=0))

    def declare(self, *names: str) -> None:
        """Declare attributes that the body may not use, for the reader's sake (`format`, `granularity`)."""
        self.attributes += [n for n in names if n not in self.attributes]

    def constant(self, value: np.ndarray) -> str:
        """A constant tensor; equal constants are written once."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._constants:
            self._count += 1
            name = self._constants[key] = f"c{self._count}"
            self.nodes.append(helper.make_node("Constant", [], [name], value=_shortest(value)))
        return self._constants[key]

    def call(self, function: str, *inputs: str, **attributes: Any) -> str:
        """Append a call of a function of this domain and return the name of its output."""
        return self.op(function, *inputs, domain=DOMAIN, **attributes)

    def attribute(self, name: str) -> str:
        """A list-of-integers attribute of the function as an int64 tensor."""
        return self.op("Constant", value_ints=ints(name))

    def build(self, opset: int) -> FunctionProto:
        """The function for a model of this opset."""
        imports = [helper.make_opsetid("", opset)]
        imports += [helper.make_opsetid(d, v) for d, v in self._imports.items()]
        return helper.make_function(
            DOMAIN,
            self.name,
            self.inputs,
            self.outputs,
            self.nodes,
            imports,
            self.attributes,
            doc_string=self.doc,
        )


def _shortest(value: np.ndarray) -> TensorProto:
    """A constant in the fewest bytes: small whole numbers take one byte each where they are not raw data."""
    raw = numpy_helper.from_array(value)
    if value.dtype not in (np.int64, np.int32, np.uint8):
        return raw
    listed = helper.make_tensor("", raw.data_type, value.shape, value.reshape(-1).tolist())
    return min(raw, listed, key=lambda t: t.ByteSize())
