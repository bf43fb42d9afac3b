"""The damping chosen on halves of samples: what it says of few and many samples, against each loss by hand."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.base import resolve
from lpcompile.quant import damping_choice
from lpcompile.quant.damping_choice import DAMPINGS, chosen_damping
from lpcompile.quant.fit import fit
from lpcompile.quant.gptq import gptq
from lpcompile.quant.gram_factor import DAMPING
from tests.support_gram import gram_of, inputs, losses, weights


def halves(columns: int, samples: int, *, count: int = 1, seed: int = 0) -> list[F32]:
    """Gram matrices of two sets of samples of the same correlated inputs."""
    x = inputs(columns, count=count, samples=2 * samples, seed=seed)
    return [gram_of(x[:, part::2]).astype(np.float32) for part in range(2)]


def judged(w: F32, chosen: F64, other: F64, damping: float) -> float:
    """The loss on `other` of codes that GPTQ chose on `chosen`."""
    tensor = gptq(w, fit(w, resolve("fixp4"), rule="mse"), chosen, damping=damping)
    return float(losses(w, tensor, other).sum())


def test_few_samples_want_much_damping_and_many_want_little() -> None:
    w = weights(48, 32)
    few = [chosen_damping(w, halves(32, 8, seed=s)) for s in range(5)]
    many = [chosen_damping(w, halves(32, 20_000, seed=s)) for s in range(5)]
    assert min(few) >= 0.03
    assert max(many) <= 0.006


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("samples", [10, 60])
def test_it_is_the_one_that_loses_least_on_the_other_half(samples: int, count: int) -> None:
    w = weights(40, 24)
    found = halves(24, samples, count=count)
    a, b = (h.astype(np.float64) for h in found)
    total = [judged(w, a, b, d) + judged(w, b, a, d) for d in DAMPINGS]
    assert chosen_damping(w, found) == DAMPINGS[int(np.argmin(total))]


def test_wide_layers_are_judged_one_way_on_some_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damping_choice, "BOTH_WAYS", 20)
    monkeypatch.setattr(damping_choice, "MOST_ROWS", 16)
    w, found = weights(50, 24), halves(24, 30)
    a, b = (h.astype(np.float64) for h in found)
    one_way = [judged(w[::3], a, b, d) for d in DAMPINGS]
    assert chosen_damping(w, found) == DAMPINGS[int(np.argmin(one_way))]


@pytest.mark.parametrize("parts", [0, 1])
def test_fewer_than_two_halves_leave_the_usual_damping(parts: int) -> None:
    assert chosen_damping(weights(8, 12), halves(12, 30)[:parts]) == DAMPING


def test_matrices_that_tell_nothing_leave_the_usual_damping() -> None:
    w, found = weights(8, 12), halves(12, 30)
    assert chosen_damping(w, [found[0], np.zeros_like(found[1])]) == DAMPING
    broken = found[1].copy()
    broken[0, 3, 3] = np.inf
    assert chosen_damping(w, [found[0], broken]) == DAMPING
    assert chosen_damping(np.zeros((0, 12), np.float32), found) == DAMPING


def test_singular_halves_of_a_depthwise_layer() -> None:
    """One sample each, and channels that are dead in one of them."""
    found = halves(9, 1, count=6)
    found[0][2] = 0
    assert chosen_damping(weights(6, 9), found) in DAMPINGS
