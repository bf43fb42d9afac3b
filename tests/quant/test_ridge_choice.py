"""How far weights follow the mismatch of their inputs, against distances sample by sample."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.quant import ridge_choice
from lpcompile.quant.mismatch import retargeted
from lpcompile.quant.ridge_choice import RIDGES, chosen_ridge, output_distance
from tests.support_gram import inputs, weights

Half = tuple[F32, F32]


def half(w: F32, x: F64, rounded: F64) -> Half:
    """H and D of inputs (G, N, K)."""
    h = rounded.transpose(0, 2, 1) @ rounded / x.shape[1]
    d = w.astype(np.float64).reshape(len(x), -1, w.shape[1]) @ x.transpose(0, 2, 1) @ rounded / x.shape[1]
    return h.astype(np.float32), d.reshape(w.shape).astype(np.float32)


def damaged(
    w: F32, samples: int, noise: float, *, count: int = 1, gain: float = 1.0, seed: int = 0
) -> list[Half]:
    """Two sets of samples of inputs that are `gain` times the float ones, with noise of their own."""
    x = inputs(16, count=count, samples=2 * samples, seed=seed)
    rounded = gain * x + noise * np.random.default_rng(seed).normal(size=x.shape)
    return [half(w, x[:, part::2], rounded[:, part::2]) for part in range(2)]


@pytest.mark.parametrize("count", [1, 4])
def test_distance_is_that_of_the_outputs_sample_by_sample(count: int) -> None:
    rng = np.random.default_rng(0)
    x = inputs(6, count=count, samples=300)
    rounded = x + rng.normal(0, 0.3, x.shape)
    w = weights(8, 6)
    found = w + rng.normal(0, 0.1, w.shape).astype(np.float32)
    wanted = 0.0
    for row in range(8):
        g = row // (8 // count)
        y = x[g] @ w[row].astype(np.float64)
        wanted += np.mean((y - rounded[g] @ found[row].astype(np.float64)) ** 2) - np.mean(y**2)
    assert output_distance(found, *half(w, x, rounded)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("gain", [0.8, 1.25])
def test_a_systematic_mismatch_is_followed(gain: float, count: int) -> None:
    w = weights(8, 16)
    halves = damaged(w, 200, 0.02, count=count, gain=gain)
    ridge = chosen_ridge(w, halves)
    assert ridge is not None
    x = inputs(16, count=count, samples=5000)
    unseen = half(w, x, gain * x)
    power = sum(float(np.mean((x[r // (8 // count)] @ w[r]) ** 2)) for r in range(8))
    before, after = (output_distance(v, *unseen) for v in (w, retargeted(w, *halves[0], ridge=ridge)))
    assert power + after < 0.1 * (power + before)


def test_no_mismatch_is_not_followed() -> None:
    w = weights(8, 16)
    assert chosen_ridge(w, damaged(w, 50, 0.0)) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_mismatch_of_other_signs_in_the_other_half_is_not_followed(seed: int) -> None:
    w = weights(8, 16, seed)
    halves = [damaged(w, 60, 0.1, gain=g, seed=seed)[part] for part, g in enumerate((0.7, 1.3))]
    assert chosen_ridge(w, halves) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_fewer_the_samples_the_less_is_followed(seed: int) -> None:
    """Where each input of the rounded network mixes those of the float one, and there is noise."""
    mix = np.eye(16) + np.random.default_rng(1).normal(0, 0.1, (16, 16))
    w, found = weights(8, 16), []
    for samples in (10_000, 4):
        x = inputs(16, samples=2 * samples, seed=seed)
        rounded = x @ mix + np.random.default_rng(samples).normal(size=x.shape)
        found.append(chosen_ridge(w, [half(w, x[:, part::2], rounded[:, part::2]) for part in range(2)]))
    many, few = found
    assert many == RIDGES[0]
    assert few in (None, RIDGES[-1])


def test_it_is_the_best_of_all_and_wide_layers_are_judged_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(8, 16)
    a, b = damaged(w, 40, 0.4, gain=0.9, seed=4)

    def best(*ways: tuple[Half, Half]) -> float | None:
        losses = {r: sum(output_distance(retargeted(w, *c, ridge=r), *j) for c, j in ways) for r in RIDGES}
        least = min(losses, key=lambda r: losses[r])
        return least if losses[least] < sum(output_distance(w, *j) for _, j in ways) else None

    assert best((a, b), (b, a)) != best((a, b)), "samples that tell them apart"
    assert chosen_ridge(w, [a, b]) == best((a, b), (b, a))
    monkeypatch.setattr(ridge_choice, "BOTH_WAYS", 8)
    assert chosen_ridge(w, [a, b]) == best((a, b))


def test_one_set_of_samples_judges_nothing() -> None:
    w = weights(8, 16)
    assert chosen_ridge(w, damaged(w, 40, 0.1, gain=0.8)[:1]) is None
    assert chosen_ridge(w, []) is None


def test_inputs_that_are_always_zero() -> None:
    w = weights(8, 16)
    zero = np.zeros((1, 16, 16), np.float32), np.zeros((8, 16), np.float32)
    assert chosen_ridge(w, [zero, zero]) in (None, *RIDGES)
    x = inputs(16)
    dead = np.zeros_like(x)  # the network before it died when it was rounded
    assert chosen_ridge(w, [half(w, x, dead)] * 2) in (None, *RIDGES)
