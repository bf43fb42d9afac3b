"""Channel scales in closed form, against a search over scales; the loss never rises."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.formats.base import resolve
from lpcompile.quant.closed_form_scales import fit_channel_scales, refined
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import gptq
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes, with_channel_scales
from lpcompile.quant.unit_rows import row_steps
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_no_other_scale_is_better(name: str, granularity: str) -> None:
    w, h = weights(8, 24), gram(24, count=2)
    tensor = gptq(w, fitted(w, name, granularity), h)
    found = fit_channel_scales(w, tensor, h)
    assert np.array_equal(found.codes, tensor.codes)
    scales, per_tensor = channel_scales(found), granularity == "tensor"
    assert (scales != channel_scales(tensor)).any()
    least = losses(w, found, h)
    for factor in (0.9, 0.99, 0.999, 1.001, 1.01, 1.1):
        other = losses(w, with_channel_scales(found, scales * np.float32(factor)), h)
        assert other.sum() > least.sum()
        assert per_tensor or (other > least).all()


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_scales_keep_their_storage_format(granularity: str) -> None:
    w, h = weights(30, 40), gram(40)
    start = fit(w, resolve("fixp4"), granularity=granularity, scale_format="ufloat8_e4m4")
    tensor = gptq(w, start, h)
    found = fit_channel_scales(w, tensor, h)
    assert found.total_bits == tensor.total_bits
    before, after = losses(w, tensor, h), losses(w, found, h)
    moved = channel_scales(found) != channel_scales(tensor)
    assert 0 < moved.sum() < 30  # some of the few scales are the best ones already
    assert (after[moved] < before[moved]).all()
    assert np.array_equal(after[~moved], before[~moved])


def test_a_second_fit_changes_nothing() -> None:
    w, h = weights(9, 30), gram(30)
    found = fit_channel_scales(w, gptq(w, fitted(w, "posit4"), h), h)
    assert fit_channel_scales(w, found, h) is found


@pytest.mark.parametrize("granularity", ["channel", "tensor", "group"])
def test_scales_stay_above_their_floor(granularity: str) -> None:
    w, h = weights(20, 30), gram(30)
    tensor = gptq(w, fitted(w, "int8" if granularity != "group" else "int4", granularity), h)
    free = fit_channel_scales(w, tensor, h)
    floors = row_steps(tensor) * np.float32(0.9999)
    lower = row_steps(free) < floors
    assert lower.any() or granularity == "tensor"
    found = fit_channel_scales(w, tensor, h, min_scale=floors)
    assert (row_steps(found) >= floors).all()
    assert losses(w, found, h).sum() <= losses(w, tensor, h).sum()


def test_a_floor_above_the_scale_is_no_reason_to_lower_it() -> None:
    w, h = weights(20, 30), gram(30)
    tensor = gptq(w, fitted(w, "int4"), h)
    found = fit_channel_scales(w, tensor, h, min_scale=2 * row_steps(tensor))
    assert (row_steps(found) >= row_steps(tensor)).all()


def test_rows_that_tell_nothing_keep_their_scales() -> None:
    w, h = weights(6, 20), gram(20)
    tensor = gptq(w, fitted(w, "int4"), h)
    tensor = replace(tensor, codes=np.where(np.arange(6)[:, None] < 2, 0, tensor.codes).astype(np.uint8))
    codes = tensor.codes.copy()
    codes[2] = nearest_codes(-w, tensor).codes[2]  # the best scale would be negative
    tensor = replace(tensor, codes=codes)
    found = fit_channel_scales(w, tensor, h)
    same = channel_scales(found) == channel_scales(tensor)
    assert same.tolist() == [True, True, True, False, False, False]
    assert fit_channel_scales(w, tensor, 0 * h) is tensor


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from(FITTED), st.integers(1, 40))
def test_in_turn_the_loss_never_rises(seed: int, columns: int, fit: tuple[str, str], samples: int) -> None:
    w = weights(4, columns, seed)
    h = gram_of(inputs(columns, samples=samples, seed=seed))
    tensor = nearest_codes(w, fitted(w, *fit))
    known = losses(w, tensor, h)
    resolved = 1e-8 * known.sum()  # eight bits and one sample: what is left is how float32 rounds w^
    for _ in range(3):
        tensor = refined(w, tensor, h, rounds=1, sweeps=1)
        found = losses(w, tensor, h)
        assert found.sum() <= known.sum() * (1 + 1e-5) + resolved
        assert fit[1] == "tensor" or (found <= known * (1 + 1e-5) + resolved).all()
        known = found


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_in_turn_is_better_than_codes_alone(name: str, granularity: str) -> None:
    w, h = weights(10, 24), gram(24)
    start = gptq(w, fitted(w, name, granularity), h)
    found = refined(w, start, h, rounds=20)
    assert losses(w, found, h).sum() < losses(w, sweep(w, start, h, sweeps=20), h).sum()


def test_in_turn_ends_where_nothing_changes() -> None:
    w, h = weights(10, 24), gram(24)
    found = refined(w, gptq(w, fitted(w, "fixp4"), h), h, rounds=50)
    assert refined(w, found, h) is found


@pytest.mark.parametrize("seed", range(3))
def test_in_turn_is_what_its_steps_give_one_after_the_other(seed: int) -> None:
    w, h = weights(10, 24, seed=seed), gram(24)
    found = by_hand = gptq(w, fitted(w, "fixp4"), h)
    for _ in range(6):
        by_hand = sweep(w, fit_channel_scales(w, by_hand, h), h, sweeps=2)
    found = refined(w, found, h, rounds=6, sweeps=2)
    assert np.array_equal(found.codes, by_hand.codes)
    assert np.array_equal(found.dequantize(), by_hand.dequantize())


def test_groups_and_damping() -> None:
    w, h = weights(6, 20), gram(20, count=3)
    groups = np.array([2, 0, 1, 2, 2, 0])
    damped = h + 0.2 * np.diagonal(h, axis1=1, axis2=2).mean(1)[:, None, None] * np.eye(20)
    start = gptq(w, fitted(w, "nf4"), h, groups)
    found = refined(w, start, h, groups, damping=0.2)
    assert (losses(w, found, damped, groups) <= losses(w, start, damped, groups)).all()
    assert losses(w, found, damped, groups).sum() < losses(w, start, damped, groups).sum()
