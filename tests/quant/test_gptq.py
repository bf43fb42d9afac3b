"""GPTQ against the example by hand, a plain loop with the inverse of the Gram matrix, and laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.errors import CalibrationError, FormatError
from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.formats.group import group_table
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import gptq, gptq_factored
from lpcompile.quant.gram_factor import conditional_variances, damped_cholesky, factor, solved
from lpcompile.quant.granularity import PerAxis, PerGroup
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.unit_rows import Index, row_steps
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights


def element_levels(tensor: QuantizedTensor, row: int) -> F64:
    """(K, codes) the levels of each element of a row in steps, NaN where a code is reserved."""
    columns = tensor.shape[1]
    reserved = np.isnan(tensor.format.table())
    if tensor.has_integer_groups:
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape)[row]
        table = group_table(tensor.format)[m].astype(np.float64)
    else:
        image = tensor.format.image()
        levels = tensor.format.table() if image is None else image.astype(np.float64)
        table = np.tile(levels, (columns, 1))
    return np.where(reserved, np.nan, table)


def one_by_one(w: F32, tensor: QuantizedTensor, h: F64, damping: float, by_size: bool) -> F64:
    """(R, K) the real weights of GPTQ as the paper has it, float64: H^-1 = U^T U, one element after another."""
    found = np.empty(w.shape)
    for row in range(len(w)):
        matrix = h[row // (len(w) // len(h))]
        columns = len(matrix)
        order = sorted(range(columns), key=lambda k: -matrix[k, k]) if by_size else list(range(columns))
        ordered = matrix[np.ix_(order, order)] + damping * np.diag(matrix).mean() * np.eye(columns)
        u = np.linalg.cholesky(np.linalg.inv(ordered)).T
        levels = element_levels(tensor, row)
        left = (w[row] / row_steps(tensor)[row]).astype(np.float64)[order]
        for i, k in enumerate(order):
            found[row, k] = levels[k, np.nanargmin(np.abs(levels[k] - left[i]))]
            left[i:] -= (left[i] - found[row, k]) / u[i, i] * u[i, i:]
    return found * row_steps(tensor)[:, None]


def test_two_weights_by_hand() -> None:
    tensor = QuantizedTensor(np.zeros((1, 2), np.uint8), resolve("int8"), PerAxis(0), np.ones(1, np.float32))
    w = np.array([[0.9, 0.53]], np.float32)
    h = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    found = gptq(w, tensor, h, damping=0)
    assert found.codes.tolist() == [[1, 0]]  # 0.53 - 0.1 / 2 = 0.48
    assert losses(w, found, h) == pytest.approx([0.4758], abs=1e-6)
    assert losses(w, nearest_codes(w, tensor), h) == pytest.approx([0.5558], abs=1e-6)


@pytest.mark.parametrize("by_size", [True, False])
@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_codes_are_those_of_the_plain_loop(name: str, granularity: str, by_size: bool) -> None:
    w, h = weights(6, 20), gram(20, count=2)
    w = np.abs(w) if name.startswith("uint") else w
    tensor = fitted(w, name, granularity)
    found = gptq(w, tensor, h, damping=0.02, block=7, order="activation" if by_size else "natural")
    expected = one_by_one(w, tensor, h, 0.02, by_size)
    assert np.array_equal(found.dequantize(), expected.astype(np.float32))
    assert found.scales is tensor.scales
    assert (found.codes != nearest_codes(w, tensor).codes).any()
    assert not np.isnan(found.format.decode(found.codes)).any()


@pytest.mark.parametrize("block", [1, 32, 128, 1000])
def test_blocks_change_nothing(block: int) -> None:
    w, h = weights(12, 150), gram(150)
    tensor = fitted(w, "fixp4")
    assert np.array_equal(gptq(w, tensor, h, block=block).codes, gptq(w, tensor, h, block=64).codes)


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_uncorrelated_inputs_give_the_nearest_codes(name: str, granularity: str) -> None:
    w = weights(8, 30)
    tensor = fitted(w, name, granularity)
    h = np.diag(np.random.default_rng(0).uniform(0.1, 3, 30))[None]
    assert np.array_equal(gptq(w, tensor, h).codes, nearest_codes(w, tensor).codes)


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_less_loss_than_nearest_on_correlated_inputs(name: str, granularity: str) -> None:
    w, h = weights(40, 48), gram(48)
    tensor = fitted(w, name, granularity)
    nearest = losses(w, nearest_codes(w, tensor), h).sum()
    assert losses(w, gptq(w, tensor, h), h).sum() < 0.8 * nearest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 24))
def test_the_order_of_inputs_does_not_matter(seed: int, columns: int) -> None:
    w, h = weights(5, columns, seed), gram(columns, seed=seed)
    tensor = fitted(w, "posit4")
    at = np.random.default_rng(seed).permutation(columns)
    moved = gptq(w[:, at], nearest_codes(w[:, at], tensor), h[:, at][:, :, at])
    assert np.array_equal(moved.codes, gptq(w, tensor, h).codes[:, at])


def test_inputs_of_equal_size_come_in_their_order() -> None:
    w, h = weights(9, 12), gram(12)
    size = np.sqrt(np.diagonal(h[0]))
    h = np.round(h / np.outer(size, size), 6)  # ones on the diagonal
    tensor = fitted(w, "int4")
    assert np.array_equal(gptq(w, tensor, h).codes, gptq(w, tensor, h, order="natural").codes)


def test_dead_inputs_get_nearest_codes_and_leave_the_others_alone() -> None:
    w, x = weights(10, 16), inputs(16)
    x[:, :, [0, 7]] = 0
    h = gram_of(x)
    tensor = fitted(w, "fixp4")
    found = gptq(w, tensor, h).codes
    assert np.array_equal(found[:, [0, 7]], nearest_codes(w, tensor).codes[:, [0, 7]])
    alive = np.setdiff1d(np.arange(16), [0, 7])
    part = replace(tensor, codes=np.ascontiguousarray(tensor.codes[:, alive]))
    assert np.array_equal(found[:, alive], gptq(w[:, alive], part, h[:, alive][:, :, alive]).codes)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("samples", [1, 3])
def test_singular_matrices(samples: int, damping: float) -> None:
    w, x = weights(10, 30), inputs(30, samples=samples)
    h = gram_of(x)
    tensor = fitted(w, "nf4")
    found = gptq(w, tensor, h, damping=damping)
    assert losses(w, found, h).sum() < 0.05 * losses(w, nearest_codes(w, tensor), h).sum()


def test_one_singular_matrix_leaves_the_others_as_they_are() -> None:
    w, x = weights(12, 9), inputs(9, count=4)
    x[2, 1:] = 0
    h = gram_of(x)
    tensor = fitted(w, "fixp4")
    found = gptq(w, tensor, h, damping=0)
    for g in range(4):
        part = fitted(w[3 * g : 3 * g + 3], "fixp4")
        one = gptq(w[3 * g : 3 * g + 3], part, h[g : g + 1], damping=0)
        assert np.array_equal(found.codes[3 * g : 3 * g + 3], one.codes)


def test_constant_inputs_keep_the_sum_of_the_weights() -> None:
    w = weights(10, 30)
    tensor = fitted(w, "fixp4")
    found = gptq(w, tensor, np.ones((1, 30, 30)))
    assert (np.abs((found.dequantize() - w).sum(1)) <= 0.51 * row_steps(tensor)).all()


def test_no_input_ever_but_zero() -> None:
    w = weights(6, 9)
    tensor = fitted(w, "int4")
    assert np.array_equal(gptq(w, tensor, np.zeros((3, 9, 9))).codes, nearest_codes(w, tensor).codes)


def test_one_input() -> None:
    w = weights(6, 1)
    tensor = fitted(w, "fixp4", "tensor")
    assert np.array_equal(gptq(w, tensor, np.full((1, 1, 1), 3.0)).codes, nearest_codes(w, tensor).codes)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_some_rows_of_some_matrices(granularity: str) -> None:
    w, h = weights(20, 12), gram(12, count=5)
    tensor = fitted(w, "posit4", granularity)
    whole = gptq(w, tensor, h)
    some = np.array([17, 4, 5, 0, 18, 6])
    part = fitted_rows(tensor, some)
    found = gptq(w[some], part, h, some // 4)
    assert np.array_equal(found.codes, whole.codes[some])


def fitted_rows(tensor: QuantizedTensor, some: Index) -> QuantizedTensor:
    scales = tensor.scales
    if isinstance(scales, QuantizedTensor):
        assert isinstance(scales.scales, np.ndarray)
        scales = QuantizedTensor(scales.codes[some], scales.format, scales.granularity, scales.scales[some])
    else:
        scales = scales[some]
    return QuantizedTensor(tensor.codes[some], tensor.format, tensor.granularity, scales)


def test_a_factor_serves_many_tensors() -> None:
    w, h = weights(6, 20), gram(20)
    factors = factor(h)
    for name in ("fixp4", "nf4"):
        tensor = fitted(w, name)
        assert np.array_equal(gptq_factored(w, tensor, factors).codes, gptq(w, tensor, h).codes)


@pytest.mark.parametrize("samples", [50, 400])
def test_loss_is_the_sum_of_variances_times_rounding_errors(samples: int) -> None:
    """What `conditional_variances` is for: errors spread evenly over a step predict the loss of GPTQ."""
    w, h = weights(3000, 40), gram_of(inputs(40, samples=samples))
    tensor = fit(w, resolve("int8"), rule="absmax")
    step = row_steps(tensor).astype(np.float64)
    predicted = conditional_variances(h)[0].sum() * (step**2).sum() / 12
    damped = h + 0.01 * np.diagonal(h[0]).mean() * np.eye(40)
    assert losses(w, gptq(w, tensor, h), damped).sum() == pytest.approx(predicted, rel=0.05)
    ordinary = np.diagonal(damped[0]).sum() * (step**2).sum() / 12
    assert losses(w, nearest_codes(w, tensor), damped).sum() == pytest.approx(ordinary, rel=0.2)
    assert predicted < 0.7 * ordinary


@pytest.mark.parametrize("order", ["activation", "natural"])
def test_conditional_variances_are_those_of_the_inverse(order: str) -> None:
    h = gram(12, count=3)
    found = conditional_variances(h, 0, order)
    for matrix, variances in zip(h, found, strict=True):
        ranks = np.argsort(-np.diag(matrix)) if order == "activation" else np.arange(12)
        for i, k in enumerate(ranks):  # variance left of k when all that come later are known
            later = ranks[i + 1 :]
            rest = matrix[k, later] @ np.linalg.pinv(matrix[np.ix_(later, later)]) @ matrix[later, k]
            assert variances[k] == pytest.approx(matrix[k, k] - rest, rel=1e-8)


@pytest.mark.parametrize(
    "bad", [np.ones((3, 3)), np.ones((1, 2, 3)), np.full((1, 3, 3), np.nan), -np.ones((1, 3, 3))]
)
def test_matrices_that_are_none(bad: F64) -> None:
    w = weights(2, 3)
    with pytest.raises(CalibrationError, match="Gram matri"):
        gptq(w, fitted(w, "int4"), bad)


def test_what_cannot_be_rounded_says_so() -> None:
    w, h = weights(5, 16), gram(16)
    tensor = fitted(w, "int4")
    with pytest.raises(FormatError, match="shape"):
        gptq(w[:3], tensor, h)
    with pytest.raises(FormatError, match="5 rows are no whole number for each of 2"):
        gptq(w, tensor, gram(16, count=2))
    with pytest.raises(FormatError, match="groups must be"):
        gptq(w, tensor, h, np.array([0, 0, 0, 0, 1]))
    with pytest.raises(FormatError, match="NaN"):
        gptq(np.full_like(w, np.nan), tensor, h)
    with pytest.raises(CalibrationError, match="no order"):
        gptq(w, tensor, h, order="random")
    zeros = QuantizedTensor(
        tensor.codes, tensor.format, tensor.granularity, tensor.scales, np.zeros(5, np.uint8)
    )
    with pytest.raises(FormatError, match="zero points"):
        gptq(w, zeros, h)
    floats = QuantizedTensor(tensor.codes, tensor.format, PerGroup(8, 1), np.ones((5, 2), np.float32))
    with pytest.raises(FormatError, match="float group scales"):
        gptq(w, floats, h)


@pytest.mark.parametrize("inputs", [1, 9, 64, 65, 200])
def test_factors_solve(inputs: int) -> None:
    """By blocks, against LAPACK's general solver."""
    made = np.random.default_rng(1).normal(size=(3, inputs, 3 * inputs))
    h = made @ made.swapaxes(1, 2)
    right = np.random.default_rng(0).normal(size=(3, inputs, 7))
    lower = damped_cholesky(h, 0.01)  # h holds what was factored
    np.testing.assert_allclose(solved(lower, right), np.linalg.solve(h, right), rtol=1e-9, atol=1e-12)
