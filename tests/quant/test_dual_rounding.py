"""DPQ's loop and the search of levels against plain loops in float64 with the inverse of the Gram matrix."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from lpcompile.errors import CalibrationError, FormatError
from lpcompile.formats.arrays import F32, F64
from lpcompile.quant.dual_precision import Stages, bfloat16
from lpcompile.quant.dual_rounding import ROUNDINGS, DualRounding, dual_rounded, loop_codes, nearest_levels
from lpcompile.quant.expanded_codes import FACTORS, searched_scales
from lpcompile.quant.gram_factor import factor
from lpcompile.quant.group_order import group_aware_order
from tests.support_gram import gram, weights

DAMPING = 0.01
LOOPS = ("gptq-cast", "dpq", "levels")


def expanded(scale: float) -> F64:
    """What the codes -8..7 stand for."""
    products = np.arange(-8, 8).astype(np.float32) * np.float32(scale)
    return products.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def code_of(x: float, scale: float, rule: str) -> int:
    if rule == "levels":
        return int(np.argmin(np.abs(expanded(scale) - x))) - 8
    return int(np.clip(np.rint(x / scale), -8, 7))


def one_by_one(stages: Stages, h: F64, rule: str, gar: bool) -> np.ndarray:
    """E7 as the notes have it: H^-1 = U^T U, one element after another."""
    w, codes = stages.units.astype(np.float64), np.empty(stages.units.shape, np.int8)
    for row in range(len(w)):
        matrix = h[row // (len(w) // len(h))]
        columns = len(matrix)
        order = group_aware_order(np.diag(matrix)[None], stages.size)[0] if gar else np.arange(columns)
        ordered = matrix[np.ix_(order, order)] + DAMPING * np.diag(matrix).mean() * np.eye(columns)
        u = np.linalg.cholesky(np.linalg.inv(ordered)).T
        left = w[row][order]
        for i, k in enumerate(order):
            scale = float(stages.scales[row, k // stages.size])
            codes[row, k] = code_of(left[i], scale, rule)
            level = codes[row, k] * scale if rule == "gptq-cast" else expanded(scale)[codes[row, k] + 8]
            left[i:] -= (left[i] - level) / u[i, i] * u[i, i:]
    return codes


def relative_loss(w: F32, found: F32, h: F64) -> float:
    e, w64 = (w - found).astype(np.float64), w.astype(np.float64)
    parts = range(len(h))
    rows = len(w) // len(h)
    cut = [slice(g * rows, (g + 1) * rows) for g in parts]
    noise = sum(np.trace(e[c] @ h[g] @ e[c].T) for g, c in zip(parts, cut, strict=True))
    return float(noise / sum(np.trace(w64[c] @ h[g] @ w64[c].T) for g, c in zip(parts, cut, strict=True)))


@pytest.mark.parametrize("rule", LOOPS)
@pytest.mark.parametrize("gar", [False, True])
@pytest.mark.parametrize(("count", "columns", "size"), [(1, 40, 8), (1, 27, 8), (3, 9, 16), (1, 140, 64)])
def test_loop_is_that_of_the_notes(rule: str, gar: bool, count: int, columns: int, size: int) -> None:
    w, h = weights(6, columns), gram(columns, count)
    stages = Stages.of(w, size)
    order = group_aware_order(np.diagonal(h, axis1=1, axis2=2), size) if gar else "natural"
    found = loop_codes(stages, factor(h, DAMPING, order), rule, block=16)
    wanted = one_by_one(stages, h, rule, gar)
    # float32 sums may fall on the other side of a middle, once in hundreds of weights; then the rest of a row differs
    rows = (found != wanted).any(axis=1)
    assert rows.sum() <= 1


def test_two_weights_by_hand() -> None:  # V2
    h = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    u = np.linalg.cholesky(np.linalg.inv(h[0])).T
    np.testing.assert_allclose(u, [[0.816497, -0.408248], [0, 0.707107]], atol=1e-6)
    stages = Stages(np.array([[0.9, 0.53]], np.float32), 1.0, np.ones((1, 1), np.float32), 2, "float8_e4m3fn")
    factors = factor(h, 0, "natural")
    for rule in LOOPS:
        assert loop_codes(stages, factors, rule).tolist() == [[1, 0]]
    assert np.float32(0.53) + factors.feedback[0, 1, 0] * np.float32(0.9 - 1) == pytest.approx(0.48)
    losses = [e @ h[0] @ e for e in (np.array([0.9, 0.53]) - q for q in ([1, 0], [1, 1]))]
    np.testing.assert_allclose(losses, [0.4758, 0.5558], atol=1e-6)


def test_uncorrelated_inputs_are_rounded_one_by_one() -> None:  # I8
    w = weights(4, 64)
    h = np.diag(np.random.default_rng(8).uniform(0.1, 9, 64))[None]
    stages = Stages.of(w, 16)
    for order in ("natural", "gar"):
        found = dual_rounded(stages, h, DualRounding("dpq", order))
        np.testing.assert_array_equal(found.codes, stages.nearest().codes)
    levels = [dual_rounded(stages, h, DualRounding("levels", o)) for o in ("natural", "gar")]
    assert levels[0] == levels[1]


def test_reordering_keeps_scales_and_natural_order() -> None:  # I9, B5
    w, h = weights(4, 48), gram(48)
    stages = Stages.of(w, 16)
    natural, gar = (dual_rounded(stages, h, DualRounding("dpq", o)) for o in ("natural", "gar"))
    np.testing.assert_array_equal(natural.group_scales, gar.group_scales)
    assert np.corrcoef(gar.dequantize().ravel(), w.ravel())[0, 1] > 0.98


def test_methods_in_their_order() -> None:  # I10 and the notes' table 4.4, on average over layers
    losses: dict[str, list[float]] = {
        name: [] for name in ("fp8-nearest", "gptq-cast", "dpq", "dpq-gar", "dpq-levels-gar")
    }
    for seed in range(8):
        w, h = weights(32, 128, seed), gram(128, seed=seed)
        for name, found in losses.items():
            tensor = dual_rounded(Stages.of(w, 64), h, DualRounding.of(name))
            found.append(relative_loss(w, tensor.dequantize(), h))
    means = [float(np.mean(v)) for v in losses.values()]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.8 * means[2]


def test_searched_scales_are_the_best_of_all_tried() -> None:
    w = weights(3, 20)
    importance = np.random.default_rng(5).uniform(0.1, 5, 20).astype(np.float32)
    stages = Stages.of(w, 8)
    found = searched_scales(stages, importance)
    for (r, g), scale in np.ndenumerate(found):
        at = slice(8 * g, min(8 * g + 8, 20))
        losses = {}
        for factor_ in FACTORS:
            tried = float(bfloat16(stages.scales[r, g] * np.float32(factor_)))
            nearest = np.abs(expanded(tried)[:, None] - stages.units[r, at].astype(np.float64)).min(axis=0)
            losses[tried] = float(importance[at] @ nearest**2)
        assert losses[float(scale)] == pytest.approx(min(losses.values()), rel=1e-5)


def test_nearest_level_ties_go_to_the_smaller_code() -> None:
    stages = Stages(
        np.array([[0.5, -0.5, 1.5, -1.5, 0, 9, -9]], np.float32),
        1.0,
        np.ones((1, 1), np.float32),
        8,
        "float8_e4m3fn",
    )
    assert nearest_levels(stages).integers().tolist() == [[0, 0, 1, -1, 0, 7, -8]]


@pytest.mark.parametrize("rule", ["gptq-cast", "dpq"])
def test_dead_inputs_have_the_code_of_zero(rule: str) -> None:  # I11
    w, h = weights(4, 24), gram(24)
    h[:, 5], h[:, :, 5] = 0, 0
    found = dual_rounded(Stages.of(w, 8), h, DualRounding(rule, "gar"))
    np.testing.assert_array_equal(found.integers()[:, 5], 0)
    assert found.integers()[:, 4].any()


def test_dead_inputs_keep_their_weights_with_levels() -> None:
    w, h = weights(4, 24), gram(24)
    h[:, 5], h[:, :, 5] = 0, 0
    stages = Stages.of(w, 8)
    found = dual_rounded(stages, h, DualRounding("levels"))
    nearest = nearest_levels(replace(stages, scales=found.group_scales))
    np.testing.assert_array_equal(found.codes[:, 5], nearest.codes[:, 5])


def test_all_inputs_dead_or_one_sample() -> None:
    w = weights(4, 24)
    x = np.random.default_rng(0).standard_normal(24)
    for h in (np.zeros((1, 24, 24)), np.outer(x, x)[None]):
        for name in ROUNDINGS:
            found = dual_rounded(Stages.of(w, 8), h, DualRounding.of(name))
            assert np.isfinite(found.dequantize()).all()


def test_one_sided_and_empty_groups() -> None:
    w = np.abs(weights(4, 24))
    w[1, 8:16] = 0
    for name in ROUNDINGS:
        found = dual_rounded(Stages.of(w, 8), gram(24), DualRounding.of(name)).dequantize()
        assert relative_loss(w, found, gram(24)) < 0.02


@pytest.mark.parametrize("rule", ["nearest", "dpq", "levels"])
def test_without_samples_weights_are_nearest(rule: str) -> None:
    stages = Stages.of(weights(4, 24), 8)
    found = dual_rounded(stages, None, DualRounding(rule, "gar"))
    if rule == "levels":
        error, plain = (np.square(t.dequantize() - weights(4, 24)).sum() for t in (found, stages.nearest()))
        assert error < plain
    else:
        assert found == stages.nearest()


def test_names_are_read_back() -> None:
    assert len(set(ROUNDINGS)) == 7
    for name in ROUNDINGS:
        assert DualRounding.of(name).name == name
        searched = "levels" in name  # the others start from the largest magnitude, as published
        assert DualRounding.of(name).scale_rule == ("levels" if searched else "absmax")


def test_wrong_matrices_are_refused() -> None:
    stages = Stages.of(weights(4, 24), 8)
    with pytest.raises(FormatError, match="4 rows"):
        dual_rounded(stages, np.stack([np.eye(24)] * 3), DualRounding("dpq"))
    with pytest.raises(CalibrationError):
        dual_rounded(stages, np.full((1, 24, 24), np.nan), DualRounding("dpq"))


def test_scales_are_searched_by_the_moments_of_each_matrix() -> None:
    """Rows of two matrices beside each other, and apart; and in whatever units moments are."""
    rows, h = weights(8, 32), np.stack([np.diag(d) for d in np.random.default_rng(1).uniform(0, 4, (2, 32))])
    importance = np.repeat(np.diagonal(h, axis1=1, axis2=2), 4, axis=0).astype(np.float32)
    stages = Stages.of(rows, 16)
    found = searched_scales(stages, importance)
    for half, matrix in ((slice(0, 4), h[0]), (slice(4, 8), h[1])):
        alone = searched_scales(
            replace(stages, units=stages.units[half], scales=stages.scales[half]),
            np.diag(matrix).astype(np.float32),
        )
        np.testing.assert_array_equal(found[half], alone)
    assert (found[4:] != searched_scales(stages, importance[:1])[4:]).any()
    how = DualRounding("levels", "natural", DAMPING)
    for units in (1.0, 2.0**-12):
        tensor = dual_rounded(stages, (h * units).astype(np.float32), how)
        np.testing.assert_array_equal(np.asarray(tensor.scales), found)
