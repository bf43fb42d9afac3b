"""Weights as rows and back, and the axis that runs over them."""

import numpy as np
import pytest

from lpcompile.quant.rows import channel_axis, from_rows, to_rows


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("Conv", (4, 3, 2, 2), 0),
        ("ConvTranspose", (4, 3, 2, 2), 0),
        ("Gemm", (3, 5), 1),
        ("MatMul", (3, 5), 1),
    ],
)
def test_rows_and_back(op: str, shape: tuple[int, ...], axis: int) -> None:
    w = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = to_rows(op, w)
    assert channel_axis(op) == axis
    assert rows.flags.c_contiguous
    assert [row.tolist() for row in rows] == [
        np.take(w, i, axis).ravel().tolist() for i in range(shape[axis])
    ]
    back = from_rows(op, rows, shape)
    np.testing.assert_array_equal(back, w)
    assert back.flags.c_contiguous
