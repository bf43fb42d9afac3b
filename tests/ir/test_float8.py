"""FP8 arithmetic in float32: what ONNX Runtime makes of the bodies against the conversions of `ml_dtypes`."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import FunctionProto, helper, numpy_helper

from lpcompile.ir import float8
from lpcompile.ir.function import DOMAIN
from tests.support import run_model

F32 = NDArray[np.float32]


def called(
    functions: list[FunctionProto],
    inputs: dict[str, NDArray[Any]],
    constants: dict[str, NDArray[Any]],
    **attributes: Any,
) -> F32:
    """The output of the last function in ONNX Runtime."""
    names = [*inputs, *constants]
    node = helper.make_node(functions[-1].name, names, ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(k, 1, v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)
    found: F32 = run_model(model, inputs)["y"]
    return found


def oracle(x: F32, scale: float) -> F32:
    held = np.clip(x.astype(np.float64) / scale, -448, 448)
    return (held.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale).astype(
        np.float32
    )


def every_tie() -> F32:
    """All numbers of five significant bits from below the smallest E4M3 number to above the largest."""
    return np.concatenate([np.arange(1, 64) * np.float32(2.0**e) for e in range(-16, 6)]).astype(np.float32)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**-7, 1.0, 2.0**20])
def test_rounding_is_that_of_ml_dtypes(scale: float) -> None:
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(20_000) * np.exp(5 * rng.standard_normal(20_000))
    ties = every_tie()
    beside = [np.nextafter(ties, np.float32(to)) for to in (0, np.inf)]
    ends = np.array([0, 1e30, -1e30, np.inf, -np.inf, 448, 464, 465, 2**-10, 2**-9], np.float32)
    x = np.concatenate([spread, ties, -ties, *beside, ends]).astype(np.float32) * np.float32(scale)
    found = called([float8.round_float8(13)], {"x": x}, {"scale": np.array(scale, np.float32)})
    np.testing.assert_array_equal(found, oracle(x, scale))


@pytest.mark.parametrize(("rows", "columns", "size"), [(3, 10, 4), (5, 7, 16), (4, 8, 8), (1, 3, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_expand_through_float8(rows: int, columns: int, size: int, axis: int) -> None:
    rng = np.random.default_rng(1)
    integers = rng.integers(-8, 8, (rows, columns))
    groups = -(-columns // size)
    scales = np.exp(rng.uniform(-7, 3, (rows, groups))).astype(ml_dtypes.bfloat16)
    codes = (integers & 15).astype(np.uint8).ravel()
    packed = np.append(codes, np.zeros(len(codes) % 2, np.uint8)).reshape(-1, 2)
    constants = {
        "codes": packed[:, 0] | packed[:, 1] << 4,
        "group_scales": scales,
        "first_scale": np.array(2.0**-5, ml_dtypes.bfloat16),
    }
    functions = [float8.round_float8(13), float8.dual_precision_weights(13, 2, axis)]
    found = called(functions, {}, constants, weight_shape=[rows, columns], group_size=[size])
    wanted = np.empty((rows, columns), np.float32)
    for (r, k), q in np.ndenumerate(integers):
        wanted[r, k] = oracle(np.float32(q) * scales[r, k // size].astype(np.float32), 1) * np.float32(
            2.0**-5
        )
    np.testing.assert_array_equal(found, wanted.T if axis else wanted)
