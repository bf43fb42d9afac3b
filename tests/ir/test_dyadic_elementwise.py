"""Bodies of work without weights in ONNX Runtime against 64-bit integers in numpy."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from lpcompile.ir import dyadic_elementwise as bodies
from tests.ir.test_dyadic import codes, model_of, same
from tests.support import Array

ALL = np.arange(256, dtype=np.uint8)
EVERY_PAIR = (np.repeat(ALL, 256).reshape(256, 256), np.tile(ALL, 256).reshape(256, 256))
LIMITS = {"zero": 30, "low": 0, "high": 255}


def numbers(m: object, b: object, k: object) -> dict[str, Array]:
    return {
        "m": np.atleast_1d(np.array(m, np.int16)),
        "b": np.atleast_1d(np.array(b, np.int64)),
        "k": np.atleast_1d(np.array(k, np.uint8)),
    }


@pytest.mark.parametrize("m", [(20000, 16384), (32767, -32767), (1, 0)])
@pytest.mark.parametrize("k", [0, 15, 40])
def test_sums_of_every_pair(m: tuple[int, int], k: int) -> None:
    attrs = {"m_a": m[0], "m_b": m[1], "c": -77 * sum(m) + ((1 << k) >> 1), "k": k, **LIMITS}
    a, b = EVERY_PAIR
    same(model_of(bodies.dyadic_add(13), a, {"b": b}, attrs, TensorProto.UINT8), a)


@pytest.mark.parametrize(("m", "k"), [(32767, 22), (-16384, 12), (1, 0)])
def test_products_of_every_pair(m: int, k: int) -> None:
    attrs = {"a_zero_point": 3, "b_zero_point": 200, "m": m, "c": (1 << k) >> 1, "k": k, **LIMITS}
    a, b = EVERY_PAIR
    same(model_of(bodies.dyadic_mul(13), a, {"b": b}, attrs, TensorProto.UINT8), a)


@pytest.mark.parametrize("op", ["dyadic_add", "dyadic_mul"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (3, 1), ()])
def test_operands_are_broadcast(op: str, shape: tuple[int, ...]) -> None:
    attrs = {"m_a": 999, "m_b": 777, "m": 999, "c": 5, "k": 8, "a_zero_point": 1, "b_zero_point": 2, **LIMITS}
    x, b = codes((2, 4, 3, 5), False), codes(shape, False, 1)
    same(model_of(getattr(bodies, op)(13), x, {"b": b}, attrs, TensorProto.UINT8), x)


@pytest.mark.parametrize("by_position", [False, True])
def test_average_pools(by_position: bool) -> None:
    x = codes((2, 3, 7, 6), False)
    attrs: dict[str, Any] = {
        "kernel_shape": [3, 2],
        "strides": [2, 1],
        "pads": [1, 0, 1, 1],
        "dilations": [1, 2],
        "weight_shape": [3, 1, 3, 2],
        "group": 3,
        "x_zero_point": 140,
        **LIMITS,
    }
    m = np.arange(4 * 5).reshape(1, 1, 4, 5) + 9000 if by_position else 9000
    constants = numbers(m, 1 << 15, 16)
    same(model_of(bodies.dyadic_average_pool(13), x, constants, attrs, TensorProto.UINT8), x)


@pytest.mark.parametrize("sizes", [(9,), (7, 5), (3, 2, 4)])
def test_global_average_pools(sizes: tuple[int, ...]) -> None:
    x = codes((2, 3, *sizes), True)
    function = bodies.dyadic_global_average_pool(13, len(sizes))
    attrs = {"x_zero_point": 9, **LIMITS}
    found = same(model_of(function, x, numbers(20000, 1 << 17, 18), attrs, TensorProto.UINT8), x)
    assert found.shape == (2, 3, *[1] * len(sizes))


@pytest.mark.parametrize("trailing", [0, 1, 2, 3])
def test_norms(trailing: int) -> None:
    x = codes((2, 4, *(3, 2, 2)[:trailing]), False)
    constants = numbers([32767, -32767, 0, 5], [-(2**30), 2**50, 99, -1], [15, 43, 0, 3])
    same(model_of(bodies.quant_norm(13, trailing), x, constants, LIMITS, TensorProto.UINT8), x)


def test_tables() -> None:
    x = codes((2, 3, 5), False)
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    found = same(model_of(bodies.lookup(13), x, {"table": table}, {}, TensorProto.UINT8), x)
    np.testing.assert_array_equal(found, table[x])
