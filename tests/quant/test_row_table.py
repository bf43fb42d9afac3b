"""Tables by row, by hand."""

import numpy as np
import pytest

from lpcompile.errors import FormatError
from lpcompile.quant.neighbours import pairs_saturate
from lpcompile.quant.row_table import RowTable, row_table

VALUES = np.array([[1.0, -0.5, 0.3], [0.0, 0.0, 0.0], [-254.0, 127.0, 100.0]], np.float32)


def test_int8_has_a_scale_a_row() -> None:
    found = row_table(VALUES, 0, "int8")
    assert found.codes.tolist() == [[127, -64, 38], [0, 0, 0], [-127, 64, 50]]  # 63.5 and -63.5 go to even
    assert found.scales is not None
    np.testing.assert_allclose(found.scales, [[1 / 127], [1.0], [2.0]], rtol=1e-6)
    np.testing.assert_array_equal(found.values, found.codes * found.scales)
    assert found.nbytes == 9 + 3 * 4


def test_half_precision_has_none() -> None:
    found = row_table(VALUES, 0, "float16")
    assert found.scales is None
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, VALUES.astype(np.float16))
    assert found.nbytes == 18


def test_rows_may_run_along_several_axes() -> None:
    values = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    found = row_table(values, (0, 1), "int8")
    assert found.scales is not None
    assert found.scales.shape == (2, 2, 1)
    np.testing.assert_allclose(found.scales.ravel() * 127, [3, 6, 9, 12], rtol=1e-6)
    assert row_table(values, -1, "int8").codes.max(axis=(0, 1)).tolist() == [127] * 3


def test_the_digest_tells_codes_and_scales_apart() -> None:
    codes, scales = np.ones((2, 2), np.int8), np.ones((2, 1), np.float32)
    tables = [
        RowTable(codes, scales),
        RowTable(codes, 2 * scales),
        RowTable(2 * codes, scales),
        RowTable(codes),
    ]
    assert len({t.sha256 for t in tables}) == 4
    assert RowTable(codes.copy(), scales.copy()).sha256 == tables[0].sha256


def test_neighbours_within_int16() -> None:
    rows = np.array([[1.0, 1.0, 0.2], [1.0, -1.0, 1.0]], np.float32)
    plain, reduced = (row_table(rows, 0, "int8", reduce_range=r) for r in (False, True))
    order = np.arange(3)
    assert pairs_saturate(plain.codes, order)
    assert not pairs_saturate(reduced.codes, order)
    assert reduced.codes.tolist() == [
        [64, 64, 13],
        [127, -127, 127],
    ]  # 63.5 and 12.7; opposite signs need nothing


@pytest.mark.parametrize(("values", "fmt"), [(VALUES, "int4"), (np.array([[1e6]], np.float32), "float16")])
def test_what_no_table_holds_is_refused(values: np.ndarray, fmt: str) -> None:
    with pytest.raises(FormatError):
        row_table(values, 0, fmt)
