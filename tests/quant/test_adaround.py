"""AdaRound: never worse than its start, much better than nearest, close to the best of all combinations."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcompile.quant.adaround import adaround
from lpcompile.quant.coordinate_descent import sweep
from lpcompile.quant.gptq import gptq
from lpcompile.quant.nearest_codes import nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from tests.support_gram import FITTED, fitted, gram, gram_of, inputs, losses, weights
from tests.support_quant import LUT4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.sampled_from(FITTED), st.integers(1, 30), st.booleans())
def test_no_row_gets_worse(seed: int, columns: int, fit: tuple[str, str], samples: int, best: bool) -> None:
    w = weights(4, columns, seed)
    h = gram_of(inputs(columns, samples=samples, seed=seed))
    tensor = fitted(w, *fit)
    start = gptq(w, tensor, h) if best else nearest_codes(w, tensor)
    found = adaround(w, start, h, iterations=20)
    assert (losses(w, found, h) <= losses(w, start, h) * (1 + 1e-5)).all()
    assert found.scales is start.scales
    assert not np.isnan(found.format.decode(found.codes)).any()


@pytest.mark.parametrize(("name", "granularity"), FITTED)
def test_much_better_than_nearest(name: str, granularity: str) -> None:
    w, h = weights(16, 32), gram(32, count=2)
    start = nearest_codes(w, fitted(w, name, granularity))
    found = losses(w, adaround(w, start, h, iterations=150), h).sum()
    assert found < 0.7 * losses(w, start, h).sum()


@pytest.mark.parametrize("name", ["int3", "posit4", "float8_e4m3fn"])
def test_learned_roundings_beat_one_sweep(name: str) -> None:
    """A sweep comes after it, so the learning itself must give something."""
    w, h = weights(40, 40), gram(40)
    start = nearest_codes(w, fitted(w, name))
    found = losses(w, adaround(w, start, h), h).sum()
    assert found < 0.98 * losses(w, sweep(w, start, h, sweeps=1), h).sum()


@pytest.mark.parametrize("seed", range(3))
def test_close_to_the_best_of_all_combinations(seed: int) -> None:
    w, h = weights(16, 4, seed), gram(4, seed=seed)
    tensor = fitted(w, "int3")
    combinations = np.array(list(product(range(8), repeat=4)), np.uint8)
    errors = tensor.format.decode(combinations) * np.asarray(tensor.scales)[:, None, None] - w[:, None]
    best = np.einsum("rni,ij,rnj->rn", errors, h[0], errors).min(axis=1)
    found = losses(w, adaround(w, nearest_codes(w, tensor), h), h)
    assert (found >= best * (1 - 1e-5)).all()
    assert found.sum() < 1.3 * best.sum()


def test_same_codes_each_time_and_groups() -> None:
    w, h = weights(8, 12), gram(12, count=3)
    groups = np.array([2, 0, 1, 2, 2, 0, 0, 1])
    start = nearest_codes(w, fitted(w, "nf4", "group"))
    found = adaround(w, start, h, groups, iterations=50)
    assert found == adaround(w, start, h, groups, iterations=50)
    assert losses(w, found, h, groups).sum() < losses(w, start, h, groups).sum()


def test_damping() -> None:
    w, h = weights(8, 30), gram_of(inputs(30, samples=4))
    damped = h + 0.3 * np.diagonal(h[0]).mean() * np.eye(30)
    start = nearest_codes(w, fitted(w, "fixp4"))
    found = adaround(w, start, h, iterations=50, damping=0.3)
    assert (losses(w, found, damped) <= losses(w, start, damped)).all()
    assert losses(w, found, damped).sum() < losses(w, start, damped).sum()


def levels_beside(tensor: QuantizedTensor, row: int, column: int, weight: float) -> set[float]:
    """The real value of a code, and of the next one towards the weight, by decoding every code in its place."""
    values = set()
    for code in range(1 << tensor.format.bits):
        if np.isnan(tensor.format.table()[code]):
            continue  # reserved
        codes = tensor.codes.copy()
        codes[row, column] = code
        values.add(float(replace(tensor, codes=codes).dequantize()[row, column]))
    own = float(tensor.dequantize()[row, column])
    further = [v for v in values if (v - own) * (weight - own) > 0]
    return {own, min(further, key=lambda v: abs(v - own), default=own)}


@pytest.mark.sweep
@pytest.mark.parametrize("count", [1, 3])  # one matrix, and three as of a grouped convolution
@pytest.mark.parametrize(
    ("name", "granularity"),
    [("nf4", "channel"), ("posit4", "group"), (LUT4, "channel"), (LUT4, "group"), ("fixp4", "group")],
)
def test_as_good_as_every_choice_between_neighbouring_levels(name: str, granularity: str, count: int) -> None:
    """All 2^8 roundings of a row, in float64."""
    w, h = weights(24, 8), gram(8, count=count)
    start = nearest_codes(w, fitted(w, name, granularity, size=4))
    found = losses(w, adaround(w, start, h), h)
    best = []
    for row in range(24):
        pairs = [sorted(levels_beside(start, row, k, float(w[row, k]))) for k in range(8)]
        errors = np.array([np.array(values) - w[row] for values in product(*pairs)], np.float64)
        best.append(np.einsum("ni,ij,nj->n", errors, h[row * count // 24], errors).min())
    assert (found <= losses(w, start, h) * (1 + 1e-6)).all()
    assert found.sum() < 1.15 * sum(best)  # nearest codes: 1.65 to 2.7
