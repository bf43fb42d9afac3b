"""Figures of a comparison against hand calculations and their laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis.classes import class_axis
from lpcompile.errors import ModelError
from lpcompile.runtime.compare import EXACT_DB, Comparison, compare


def compared(a: np.ndarray, b: np.ndarray) -> Comparison:
    return compare([({"y": a}, {"y": b})])


def test_sqnr_by_hand() -> None:
    """Signal 3^2 + 4^2 = 25, noise 0.5^2 = 0.25: a ratio of 100."""
    found = compared(np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 4.5]], np.float32))
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs == 0.5
    assert found.samples == 1


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 9), cut=st.integers(1, 15))
def test_sqnr_neither_depends_on_scale_nor_on_calls(scale: float, seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    a, noise = rng.normal(size=(16, 5)), 0.01 * rng.normal(size=(16, 5))
    whole = compared(a, a + noise).sqnr_db
    scaled = compared(a * scale, (a + noise) * scale).sqnr_db
    parts = compare([({"y": a[s]}, {"y": (a + noise)[s]}) for s in (slice(cut), slice(cut, None))])
    assert whole is not None
    assert scaled == pytest.approx(whole, abs=1e-6)
    assert parts.sqnr_db == pytest.approx(whole, abs=1e-9)
    assert parts.samples == 16


@given(seed=st.integers(0, 20), cut=st.integers(1, 299))
def test_the_standard_error_is_that_of_drawing_other_samples(seed: int, cut: int) -> None:
    """Against the spread of 300 bootstrap draws; whether calls hold one sample or many is no matter."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(300, 2, 3)) * rng.uniform(0.5, 2, size=(300, 1, 1))
    b = a + 0.05 * rng.normal(size=a.shape) * rng.gamma(2, size=(300, 1, 1))
    found = compared(a, b).sqnr_error_db
    parts = compare([({"y": a[s]}, {"y": b[s]}) for s in (slice(cut), slice(cut, None))]).sqnr_error_db
    signal, noise = (np.square(x).sum((1, 2)) for x in (a, a - b))
    draws = rng.integers(0, 300, size=(300, 300))
    spread = (10 * np.log10(signal[draws].sum(1) / noise[draws].sum(1))).std()
    assert found == pytest.approx(spread, rel=0.25)
    assert parts == pytest.approx(found)


def test_what_has_no_standard_error() -> None:
    a = np.ones((4, 3), np.float32)
    assert compared(a, a).sqnr_error_db is None
    assert compared(a[:1], 2 * a[:1]).sqnr_error_db is None
    assert compared(0 * a, a).sqnr_error_db is None
    assert compared(a, np.full_like(a, np.nan)).sqnr_error_db is None


def test_equal_and_silent_tensors() -> None:
    x, zero = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    assert compared(x, x).sqnr_db == EXACT_DB
    assert compared(zero, zero).sqnr_db == EXACT_DB
    assert compared(zero, x).sqnr_db == -EXACT_DB


def test_values_that_are_not_finite() -> None:
    a = np.array([[1.0, np.nan, np.inf]], np.float32)
    assert compared(a, a).sqnr_db == EXACT_DB
    for b in ([1.0, 0.0, np.inf], [1.0, np.nan, -np.inf], [1.0, np.inf, np.inf]):
        found = compared(a, np.array([b], np.float32))
        assert found.sqnr_db == -EXACT_DB
        assert found.max_abs == math.inf
    found = compared(np.ones((1, 3), np.float32), np.array([[1, 1, np.nan]], np.float32))
    assert found.sqnr_db == -EXACT_DB


def test_agreement_counts_rows_of_equal_argmax() -> None:
    a = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2], [1, 2, 3]], np.float32)
    b = np.array([[1, 2, 9], [3, 2, 1], [3, 1, 2], [2, 1, 3]], np.float32)
    assert compared(a, b).agreement == 0.75


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((), None),
        ((5,), None),
        ((2, 5), 1),
        ((2, 1), None),
        ((2, 4, 5), 2),
        ((2, 3, 4, 5), 1),
        ((0, 5), None),
    ],
)
def test_the_axis_of_the_classes(shape: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(np.zeros(shape)) == axis


def test_kl_of_probabilities_and_of_logits_by_hand() -> None:
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert compared(p, q).kl == pytest.approx(expected)
    assert compared(np.log(p) + 7, np.log(q) - 3).kl == pytest.approx(expected)
    assert compared(p, p).kl == pytest.approx(0.0, abs=1e-12)


def test_integers_are_compared_by_equality() -> None:
    found = compared(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 5]]))
    assert found.sqnr_db is None
    assert found.max_abs is None
    assert found.agreement == 0.75
    assert compared(np.array([True, False]), np.array([True, True])).agreement == 0.5


def test_the_worst_output_and_the_first_agreement_stand_for_all() -> None:
    a = {"x": np.array([[3.0, 4.0]]), "z": np.array([[30.0, 40.0]])}
    b = {"x": np.array([[3.0, 4.5]]), "z": np.array([[80.0, 40.0]])}
    quality = compare([(a, b)]).quality(held_back=True)
    assert quality.sqnr_db_output == pytest.approx(0.0)
    assert quality.outputs == pytest.approx({"x": 20.0, "z": 0.0})
    assert quality.top1_agreement == 1.0
    assert quality.max_abs_error == 50.0
    assert quality.held_back


def test_half_precision_does_not_overflow() -> None:
    x = np.full((1, 4), 6e4, np.float16)
    found = compared(x, x - np.float16(32))
    assert found.sqnr_db == pytest.approx(20 * math.log10(60000 / 32), abs=0.01)


def test_other_interfaces_are_refused() -> None:
    with pytest.raises(ModelError, match="output 'y' is missing"):
        compare([({"y": np.ones(2)}, {"z": np.ones(2)})])
    with pytest.raises(ModelError, match=r"output 'y' has shape \(3,\) instead of \(2,\)"):
        compared(np.ones(2), np.ones(3))


def test_lengths_that_depend_on_the_data_may_differ() -> None:
    found = Comparison(free={"y": frozenset({0})})
    found.update({"y": np.ones((3, 2))}, {"y": np.ones((4, 2))})
    found.update({"y": np.ones((3, 2))}, {"y": np.ones((3, 2))})
    assert found.unequal == {"y": 1}
    assert found.sqnr_db == EXACT_DB
    with pytest.raises(ModelError, match="instead of"):
        found.update({"y": np.ones((3, 2))}, {"y": np.ones((3, 1))})


@pytest.mark.parametrize(
    ("outputs", "inputs", "samples"),
    [
        ((4, 10), (4, 3, 8, 8), 4),
        ((256, 4), (1, 3, 8, 8), 1),  # boxes of one image
        ((18, 100), (2, 9), 2),  # tokens of two texts
        ((10, 6), (32, 6), 1),  # the batch is not the first axis
    ],
)
def test_samples_are_what_the_inputs_hold(
    outputs: tuple[int, ...], inputs: tuple[int, ...], samples: int
) -> None:
    found, y = Comparison(), np.ones(outputs, np.float32)
    found.update({"y": y}, {"y": y}, {"x": np.zeros(inputs, np.float32)})
    assert found.samples == samples
