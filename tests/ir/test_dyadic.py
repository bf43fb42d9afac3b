"""Bodies of the integer layers in ONNX Runtime against 64-bit integers in numpy."""

import zlib
from typing import Any

import numpy as np
import pytest
from onnx import FunctionProto, ModelProto, TensorProto, helper, numpy_helper

from lpcompile.formats.base import resolve
from lpcompile.ir.decode import Storage
from lpcompile.ir.dyadic import dyadic_layer
from lpcompile.ir.function import DOMAIN
from lpcompile.runtime.reference import run_node
from tests.support import Array, run_model

INT8 = Storage(resolve("int8"))
LIMITS = {"zero": 11, "low": 2, "high": 250}
# operator, shape of x, shape of w, attributes
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (2, 6, 9, 8), (5, 6, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "grouped": ("Conv", (1, 6, 7, 7), (4, 3, 3, 3), {"group": 2, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "depthwise": ("Conv", (1, 6, 7, 7), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "conv1d": ("Conv", (2, 5, 13), (4, 5, 3), {"pads": [1, 1]}),
    "conv3d": ("Conv", (1, 3, 4, 5, 4), (4, 3, 2, 3, 2), {}),
    "gemm": ("Gemm", (5, 37), (37, 6), {}),
    "matmul": ("MatMul", (2, 3, 37), (37, 6), {}),
}


def codes(shape: tuple[int, ...], extreme: bool, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if extreme:
        return np.where(rng.random(shape) < 0.5, 0, 255).astype(np.uint8)
    return rng.integers(0, 256, shape).astype(np.uint8)


def model_of(
    function: FunctionProto, x: Array, constants: dict[str, Array], attrs: dict[str, Any], out: int
) -> ModelProto:
    """A model of one call, x its input."""
    attrs = {k: v for k, v in attrs.items() if k in function.attribute}
    call = helper.make_node(function.name, ["x", *constants], ["y"], domain=DOMAIN, **attrs)
    graph = helper.make_graph(
        [call],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[function])


def same(model: ModelProto, x: Array) -> Array:
    """ONNX Runtime's output, which numpy's equals."""
    constants = [numpy_helper.to_array(t) for t in model.graph.initializer]
    (wanted,) = run_node(model.graph.node[0], [x, *constants])
    found: Array = run_model(model, {"x": x})["y"]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    return found


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("accumulate", [False, True], ids=["codes", "sums"])
@pytest.mark.parametrize("digits", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_bodies_equal_the_integers(case: str, digits: int, accumulate: bool, extreme: bool) -> None:
    op, x_shape, w_shape, attrs = CASES[case]
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    w = rng.integers(-128, 128, w_shape).astype(np.int8)
    if extreme:
        w = np.where(w < 0, -128, 127).astype(np.int8)
    outputs = w_shape[0] if op == "Conv" else w_shape[1]
    function = dyadic_layer(op, INT8, 13, digits=digits, trailing=len(w_shape) - 2, accumulate=accumulate)
    k = rng.integers(14, 22, outputs)
    numbers = {
        "m": rng.integers(-(2**15) + 1, 2**15, outputs).astype(np.int16),
        "b": rng.integers(-(2**40), 2**40, outputs) >> (22 - k),
        "k": k.astype(np.uint8),
    }
    constants = {"codes": w, **({} if accumulate else numbers)}
    if op == "Conv":
        attrs = {"kernel_shape": list(w_shape[2:]), **attrs}
    attrs = {**attrs, **LIMITS, "weight_shape": list(w_shape), "x_zero_point": 77}
    x = codes(x_shape, extreme)
    found = same(
        model_of(function, x, constants, attrs, TensorProto.INT32 if accumulate else TensorProto.UINT8), x
    )
    if not accumulate:
        assert found.min() >= LIMITS["low"]
        assert found.max() <= LIMITS["high"]


@pytest.mark.parametrize(("digits", "inputs"), [(2, 900), (4, 20000)])
def test_split_sums_are_exact_where_float32_is_not(digits: int, inputs: int) -> None:
    w = np.full((inputs, 2), [127, -128], np.int8)
    x = np.full((1, inputs), 255, np.uint8)
    x[0, 0] = 1
    attrs = {"weight_shape": [inputs, 2], "x_zero_point": 0}
    function = dyadic_layer("Gemm", INT8, 13, digits=digits, accumulate=True)
    found = same(model_of(function, x, {"codes": w}, attrs, TensorProto.INT32), x)
    np.testing.assert_array_equal(found, x.astype(np.int64) @ w.astype(np.int64))


def test_names_say_what_differs() -> None:
    assert dyadic_layer("Conv", INT8, 13, digits=2, trailing=1).name == "DyadicConv_int8_d2_t1"
    assert dyadic_layer("Conv", INT8, 13).name == "DyadicConv_int8"
    assert dyadic_layer("MatMul", INT8, 13, accumulate=True).name == "AccumulateMatMul_int8"
