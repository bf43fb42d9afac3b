"""One-operator models whose gradients are compared with central differences and run by ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from lpcompile.autodiff.reverse import add_gradients
from lpcompile.ir.graph import LpGraph
from tests.autodiff.gradients import gradients_of

Array = NDArray[Any]
# What is fed: a shape (drawn from `draw`), or the numbers themselves.
Fed = tuple[int, ...] | list[Any] | Array | float


@dataclass(frozen=True)
class Case:
    """A graph and what it reads.

    Attributes:
        body: nodes in the syntax of onnx.parser; they fill `outputs`.
        fed: graph inputs by name: floats are differentiated, lists of integers are indices and the like.
        constants: the same for initialisers; they are differentiated only if named in `wanted`.
        wanted: tensors whose gradients are compared; by default every float that is fed.
        dims: declared dimensions by name where they are not those that are fed, such as "N,?,3".
        draw: how fed numbers are drawn: "normal", "positive" (0.3 to 1.3) or "unit" (-0.9 to 0.9).
    """

    body: str
    fed: Mapping[str, Fed]
    constants: Mapping[str, Fed] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    dims: Mapping[str, str] = field(default_factory=dict)
    opset: int = 17
    draw: str = "normal"
    in_runtime: bool = True

    def __str__(self) -> str:
        return f"{self.body} {self.opset}" + "".join(f" {d}" for d in self.dims.values())

    @property
    def ops(self) -> set[str]:
        """Operators of the graph."""
        return {n.op_type for n in self.model(np.dtype(np.float64)).graph.node}

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors whose gradients are compared."""
        return self.wanted or tuple(
            n for n, v in self.values(np.dtype(np.float64), self.fed).items() if v.dtype.kind == "f"
        )

    def values(self, dtype: np.dtype[Any], given: Mapping[str, Fed]) -> dict[str, Array]:
        """The numbers of a table of tensors."""
        return {name: self._value(name, value, dtype) for name, value in given.items()}

    def _value(self, name: str, given: Fed, dtype: np.dtype[Any]) -> Array:
        if isinstance(given, tuple):
            rng = np.random.default_rng([len(self.body), *name.encode()])
            if self.draw == "normal":
                return rng.normal(size=given).astype(dtype)
            low, high = (0.3, 1.3) if self.draw == "positive" else (-0.9, 0.9)
            return rng.uniform(low, high, given).astype(dtype)
        array = np.asarray(given)
        return array.astype(dtype) if array.dtype.kind == "f" else array

    def model(self, dtype: np.dtype[Any]) -> ModelProto:
        """The model with its floats in a type."""
        fed, constants = self.values(dtype, self.fed), self.values(dtype, self.constants)
        declared = [
            f"{_spelled(v.dtype)}[{self.dims.get(n, ','.join(map(str, v.shape)))}] {n}"
            if v.ndim or n in self.dims
            else f"{_spelled(v.dtype)} {n}"
            for n, v in fed.items()
        ]
        outputs = ", ".join(f"{_spelled(dtype)}[] {n}" for n in self.outputs)
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {self.opset}]>'
            f"case ({', '.join(declared)}) => ({outputs}) {{ {self.body} }}"
        )
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
        return model


def _spelled(dtype: np.dtype[Any]) -> str:
    return {"float64": "double", "float32": "float"}.get(dtype.name, dtype.name)


def check(case: Case) -> None:
    """Float64 gradients agree with central differences; float32 ones in ONNX Runtime agree with them."""
    wide, narrow = np.dtype(np.float64), np.dtype(np.float32)
    feeds = case.values(wide, case.fed)
    ours, expected = gradients_of(case.model(wide), feeds, case.names)
    for name in case.names:
        assert ours[name].shape == expected[name].shape
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    if case.in_runtime:
        for name, found in in_runtime(case.model(narrow), case.values(narrow, case.fed), case.names).items():
            np.testing.assert_allclose(found, ours[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} in float32")


def in_runtime(model: ModelProto, feeds: Mapping[str, Array], wanted: tuple[str, ...]) -> dict[str, Array]:
    """Gradients of the loss of `gradients_of` by ONNX Runtime, as it optimises the graph."""
    names = [o.name for o in model.graph.output]
    outputs = dict(zip(names, _run(model, names, feeds), strict=True))
    rng = np.random.default_rng(0)
    graph = LpGraph.from_proto(model)
    graph.infer_shapes()
    seeds = {
        n: graph.constant(f"probe_{n}", rng.normal(size=y.shape).astype(y.dtype))
        for n, y in outputs.items()
        if y.dtype.kind == "f"
    }
    found = {n: v for n, v in add_gradients(graph, seeds, wanted).items() if v is not None}
    for value in found.values():
        graph.add_output(value)
    proto = graph.to_proto()
    for info, y in zip(proto.graph.output, outputs.values(), strict=False):
        if not info.type.tensor_type.HasField("shape"):  # the checker asks for a rank
            info.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension()] * y.ndim)
    onnx.checker.check_model(proto, full_check=True)
    return dict(zip(found, _run(proto, [v.name for v in found.values()], feeds), strict=True))


def _run(model: ModelProto, names: list[str], feeds: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(names, dict(feeds))
    return results
