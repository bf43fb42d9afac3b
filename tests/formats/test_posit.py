"""Posits against SoftPosit (tables and the standard's rounding) and the vectors of the notes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpcompile.formats.base import resolve

SOFTPOSIT: dict[str, Any] = json.loads(Path(__file__).with_name("softposit_tables.json").read_text())


@pytest.mark.parametrize("name", SOFTPOSIT["tables"])
def test_tables_equal_softposit(name: str) -> None:
    theirs = np.array([np.nan if v is None else v for v in SOFTPOSIT["tables"][name]])
    assert np.array_equal(resolve(name).table(), theirs, equal_nan=True)


@pytest.mark.parametrize("name", SOFTPOSIT["standard_rounding"])
def test_standard_rounding_equals_softposit(name: str) -> None:
    fmt = resolve(f"{name}_standard")
    inputs = np.array(SOFTPOSIT["inputs"])
    assert fmt.encode(inputs).tolist() == SOFTPOSIT["standard_rounding"][name]
    exact = inputs[inputs == inputs.astype(np.float32)]
    assert np.array_equal(fmt.encode(exact.astype(np.float32)), fmt.encode(exact))


def test_the_two_roundings_differ_where_the_notes_say() -> None:
    ours, standard = resolve("posit4es1"), resolve("posit4es1_standard")
    x = np.array([1e-9, 0.14, 9.0])  # below minpos; between 1/8 and 5/32; between 8 and 10
    assert ours.decode(ours.encode(x)).tolist() == [0, 1 / 16, 4]
    assert standard.decode(standard.encode(x)).tolist() == [1 / 16, 1 / 4, 16]


# Paper notes, section 2.2: positive codes 0..7 of the three tables.
TABLE_2_2 = {
    "posit4": [0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 4],
    "posit4es1": [0, 1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16],
    "posit4es2": [0, 1 / 256, 1 / 16, 1 / 4, 1, 4, 16, 256],
}


@pytest.mark.parametrize("name", TABLE_2_2)
def test_table_of_the_notes(name: str) -> None:
    table = resolve(name).table()
    positive = TABLE_2_2[name]
    assert table[:8].tolist() == positive
    assert np.isnan(table[8])
    assert table[9:].tolist() == [-v for v in reversed(positive[1:])]
    assert resolve(name).max / positive[1] == {"posit4": 16, "posit4es1": 256, "posit4es2": 65536}[name]


@pytest.mark.parametrize("name", SOFTPOSIT["tables"])
def test_monotone_and_negation_is_twos_complement(name: str) -> None:
    """6.2: codes read as signed integers ascend with the value; -code has the negated value."""
    table = resolve(name).table()
    n = len(table)
    signed = np.arange(-(n // 2) + 1, n // 2)
    values = table[signed % n]
    assert (np.diff(values) > 0).all()
    assert np.array_equal(values, -values[::-1])


def test_exact_dot_product() -> None:
    """6.3."""
    a = np.array([3, -5, 7, -8, 1, 0, 2, -1])
    codes = np.array([0b0011, 0b1010, 0b0111, 0b1111, 0b0101, 0b0110, 0b1001, 0b0001], np.uint8)
    fmt = resolve("posit4")
    image = fmt.image()
    assert image is not None
    integers = image[codes].astype(int)
    assert integers.tolist() == [3, -8, 16, -1, 6, 8, -16, 1]
    dot = int(integers @ a)
    assert dot == 142
    assert dot * fmt.image_scale == 35.5 == float(fmt.decode(codes).astype(float) @ a)
    assert [dot * fmt.image_scale / d for d in (4, 8)] == [8.875, 4.4375]


def test_rounding_of_the_notes() -> None:
    """6.4: sc,4 and sc,8 are posit4 with the scales 1/4 and 1/8."""
    fmt = resolve("posit4")

    def rounded(x: list[float], divisor: int) -> list[float]:
        codes = fmt.encode_f32(np.array(x, np.float32), 1 / divisor)
        return [float(v) / divisor for v in fmt.decode(codes)]

    ties = [1 / 32, 3 / 32, 5 / 32, 7 / 32, 5 / 16, 7 / 16, 3 / 4, 5 / 4]
    assert rounded(ties, 4) == [0, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1 / 2, 1]
    w = [0.03, 0.0313, -0.05, 0.1, 0.16, 0.22, -0.31, 0.3126, 0.44, 0.74, 0.76, 1.3, -1.7]
    sc4 = [0, 0.0625, -0.0625, 0.125, 0.1875, 0.25, -0.25, 0.375, 0.5, 0.5, 1, 1, -1]
    sc8 = [0.03125, 0.03125, -0.0625, 0.09375, 0.1875, 0.25, -0.25, 0.25, 0.5, 0.5, 0.5, 0.5, -0.5]
    assert rounded(w, 4) == sc4
    assert rounded(w, 8) == sc8
    fixp = resolve("fixp4")
    expected = [0, 0, 0, 0.125, 0.125, 0.25, -0.25, 0.375, 0.5, 0.75, 0.75, 0.875, -1]
    assert fixp.decode(fixp.encode(np.array(w))).tolist() == expected


def test_sensitivity_toy() -> None:
    """6.7, the quantised values."""
    w = np.array([0.30, -0.02, 0.07, -0.55, 0.11, 0.9])
    fixp, posit = resolve("fixp4"), resolve("posit4")
    assert fixp.decode(fixp.encode(w)).tolist() == [0.25, 0, 0.125, -0.5, 0.125, 0.875]
    rounded = [fixp.decode(fixp.encode(w)), *(posit.decode(posit.encode(w * d)) / d for d in (4, 8))]
    errors = [float(np.sum((w - r) ** 2)) for r in rounded]
    assert np.allclose(errors, [0.009275, 0.01568125, 0.1654078])
