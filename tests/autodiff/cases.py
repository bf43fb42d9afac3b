"""Small models whose gradients are compared with central differences and run by ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from tests.autodiff.gradients import gradients_of, reverse_mode, runtime

Array = NDArray[Any]
# A shape, to be filled with random numbers, or the numbers themselves.
Given = tuple[int, ...] | list[Any] | Array | float
WIDE, NARROW = np.dtype(np.float64), np.dtype(np.float32)
_RANGES = {"positive": (0.3, 1.3), "unit": (-0.9, 0.9)}


@dataclass(frozen=True)
class Case:
    """A graph and what it reads.

    Attributes:
        body: nodes in the syntax of onnx.parser.
        fed: graph inputs by name.
        constants: initialisers by name.
        wanted: tensors whose gradients are compared; by default every float that is fed.
        outputs: names of graph outputs.
        dims: declared dimensions by name where they are not those that are fed, such as "N,?,3".
        opset: of the model.
        draw: of random numbers: "normal", or uniform: "positive" (0.3 to 1.3), "unit" (-0.9 to 0.9).
    """

    body: str
    fed: Mapping[str, Given]
    constants: Mapping[str, Given] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("y",)
    dims: Mapping[str, str] = field(default_factory=dict)
    opset: int = 17
    draw: str = "normal"

    def __str__(self) -> str:
        return " ".join([self.body, f"opset {self.opset}", *(f"{n}[{d}]" for n, d in self.dims.items())])

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors whose gradients are compared."""
        return self.wanted or tuple(n for n, v in self.feeds().items() if v.dtype.kind == "f")

    @cached_property
    def ops(self) -> set[str]:
        """Operators of the graph."""
        return {n.op_type for n in self.model().graph.node}

    def feeds(self, dtype: np.dtype[Any] = WIDE) -> dict[str, Array]:
        """Inputs, floats in a type."""
        return self._values(self.fed, dtype)

    def model(self, dtype: np.dtype[Any] = WIDE) -> ModelProto:
        """The model, floats in a type."""
        inputs = ", ".join(self._declared(n, v) for n, v in self.feeds(dtype).items())
        outputs = ", ".join(f"{_spelled(dtype)}[] {n}" for n in self.outputs)
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {self.opset}]> case ({inputs}) => ({outputs}) {{ {self.body} }}'
        )
        constants = self._values(self.constants, dtype)
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
        return model

    def _values(self, given: Mapping[str, Given], dtype: np.dtype[Any]) -> dict[str, Array]:
        return {name: self._value(name, value, dtype) for name, value in given.items()}

    def _value(self, name: str, given: Given, dtype: np.dtype[Any]) -> Array:
        if isinstance(given, tuple):
            rng = np.random.default_rng([len(self.body), *name.encode()])
            drawn = (
                rng.uniform(*_RANGES[self.draw], given) if self.draw in _RANGES else rng.normal(size=given)
            )
            return drawn.astype(dtype)
        array = np.asarray(given)
        return array.astype(dtype) if array.dtype == WIDE else array

    def _declared(self, name: str, value: Array) -> str:
        dims = self.dims.get(name, ",".join(map(str, value.shape)))
        return f"{_spelled(value.dtype)}[{dims}] {name}" if dims else f"{_spelled(value.dtype)} {name}"


def _spelled(dtype: np.dtype[Any]) -> str:
    return {"float64": "double", "float32": "float"}.get(dtype.name, dtype.name)


def check(case: Case) -> None:
    """Float64 gradients agree with central differences; those that ONNX Runtime computes in float32 agree with them."""
    ours, expected = gradients_of(case.model(), case.feeds(), case.names)
    for name in case.names:
        assert ours[name].shape == expected[name].shape
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    for name, found in reverse_mode(case.model(NARROW), case.feeds(NARROW), case.names, runtime).items():
        narrow = np.zeros(ours[name].shape) if found is None else found
        np.testing.assert_allclose(narrow, ours[name], rtol=1e-4, atol=1e-5, err_msg=f"{name} in float32")


def gradient(case: Case, model: ModelProto | None = None) -> dict[str, Array]:
    """Float64 gradients by add_gradients; those that are None are left out."""
    found = reverse_mode(case.model() if model is None else model, case.feeds(), case.names)
    return {name: value for name, value in found.items() if value is not None}
