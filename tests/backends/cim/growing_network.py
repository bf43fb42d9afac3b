"""A float ONNX network that grows node by node, shapes known all the time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, checker, defs, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

Shape = tuple[int | str, ...]
SYMBOL = "N"
MOST_ELEMENTS = 4096


class Growing:
    """Nodes, weights and the tensors that further nodes may read.

    Attributes:
        opset: of the model.
        rng: of the step at hand; a step draws from its own stream, so leaving steps out changes others little.
    """

    def __init__(self, opset: int, inputs: Sequence[Shape]) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}
        self.inputs = [f"x{i}" for i in range(len(inputs))]
        self.shapes: dict[str, Shape] = dict(zip(self.inputs, inputs, strict=True))

    def pick(self, *items: Any) -> Any:
        """One of some things."""
        return items[int(self.rng.integers(len(items)))]

    def whole(self, low: int, high: int) -> int:
        """A number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return bool(self.rng.random() < p)

    def tensor(self, *ranks: int) -> str | None:
        """A tensor of one of these ranks, more often a young one; None where there is none."""
        found = [t for t, s in self.shapes.items() if (len(s) in ranks or not ranks) and 0 not in s]
        if not found:
            return None
        return found[-1 - min(int(self.rng.geometric(0.6)) - 1, len(found) - 1)]

    def like(self, shape: Shape) -> str:
        """A tensor that broadcasts with a shape without making it larger."""

        def fits(other: Shape) -> bool:
            pairs = zip(reversed(other), reversed(shape), strict=False)
            return len(other) <= len(shape) and all(a in (b, 1) for a, b in pairs)

        return str(self.pick(*[t for t, s in self.shapes.items() if fits(s)]))

    def weight(self, shape: Sequence[int], scale: float | None = None) -> str:
        """A new constant of floats, or one of the same shape that is there already."""
        same = [n for n, a in self.weights.items() if a.shape == tuple(shape) and a.dtype == np.float32]
        if same and self.chance(0.1):
            return str(self.pick(*same))
        if scale is None:
            scale = self.pick(0.3, 0.3, 0.3, 3.0, 0.01)
        values = self.rng.normal(0, scale, tuple(shape)).astype(np.float32)
        if self.chance(0.1) and values.ndim > 1:
            values[: self.whole(0, values.shape[0])] = 0  # dead channels
        if self.chance(0.05):
            values = np.abs(values)
        return self.constant(values)

    def constant(self, values: NDArray[Any]) -> str:
        """A constant."""
        name = f"w{len(self.weights)}"
        self.weights[name] = values
        return name

    def integers(self, *values: int) -> str:
        """A constant list of int64."""
        return self.constant(np.array(values, np.int64))

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; its outputs, or nothing where it would be too large or empty."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        kept = {k: v for k, v in attributes.items() if v is not None}
        made = helper.make_node(
            op, list(inputs), names, name="" if self.chance(0.2) else f"n{len(self.nodes)}", **kept
        )
        found = [_shape(t) for t in self._infer(made)]
        for shape in found:
            sizes = [1 if isinstance(d, str) else d for d in shape]
            if not all(d > 0 for d in sizes) or np.prod(sizes) > MOST_ELEMENTS or SYMBOL in shape[1:]:
                return []
        self.nodes.append(made)
        self.shapes.update(zip(names, found, strict=True))
        return names

    def _infer(self, made: NodeProto) -> list[TypeProto]:
        types = {}
        for name in filter(None, made.input):
            array = self.weights.get(name)
            kind = TensorProto.FLOAT if array is None else helper.np_dtype_to_tensor_dtype(array.dtype)
            types[name] = helper.make_tensor_type_proto(
                kind, self.shapes[name] if array is None else array.shape
            )
        data = {n: numpy_helper.from_array(self.weights[n], n) for n in made.input if n in self.weights}
        schema = defs.get_schema(made.op_type, self.opset)
        ids = [helper.make_opsetid("", self.opset)]
        found = infer_node_outputs(schema, made, types, data, {}, ids)
        return [found[n] for n in made.output]

    def model(self, outputs: Sequence[str]) -> ModelProto:
        """The network with these outputs, checked."""
        graph = helper.make_graph(
            self.nodes,
            "generated",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in self.inputs],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model


def _shape(kind: TypeProto) -> Shape:
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else SYMBOL for d in dims)
