"""Candidates of a layer: which there are, how well coarse fits compare with thorough ones, what is dropped."""

from dataclasses import replace

import numpy as np
import pytest

from lpcompile.assignment.candidates import FORMATS, GRANULARITIES, candidates_of, fit_candidates, group_size
from lpcompile.assignment.layer_facts import LayerFormat
from lpcompile.assignment.stored_size import stored_bits
from lpcompile.errors import FormatError
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import Kernel, WeightPlan
from lpcompile.quant.fit import damped_importance, fit
from lpcompile.registry import target
from tests.support import parse_model

NET = """m (float[1,4,6,6] x) => (float[1,5] y) <float[8,4,3,3] w, float[8,5] v> {
    a = Conv <kernel_shape=[3,3]> (x, w)  b = GlobalAveragePool (a)  c = Flatten (b)  y = MatMul (c, v)
}"""


def plans(
    formats: tuple[str, ...] = FORMATS, granularities: tuple[str, ...] = GRANULARITIES
) -> list[WeightPlan]:
    return [
        WeightPlan(f, g, "output-mse", "float32" if f == "int8" else "ufloat8_e4m4")
        for f in formats
        for g in granularities
        if f != "int8" or g == "channel"
    ]


def weights(rows: int = 24, columns: int = 288) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    w = rng.standard_t(5, (rows, columns)) * rng.uniform(0.01, 0.5, (rows, 1))
    return w.astype(np.float32), rng.lognormal(0, 1, columns).astype(np.float32)


def loss_of(w: np.ndarray, approximation: np.ndarray, h: np.ndarray) -> float:
    return float(((w - approximation).astype(np.float64) ** 2 * damped_importance(h, len(h))).sum())


def test_a_layer_may_take_what_its_shape_and_the_target_allow() -> None:
    conv, matmul = LpGraph.from_proto(parse_model(NET)).layers()
    found = {(p.format, p.granularity): p for p in candidates_of(conv, target("ort"))}
    assert {g for f, g in found if f == "posit4"} == {"channel", "group8", "group16", "group32"}  # 36 inputs
    assert {g for f, g in found if f == "int8"} == {"channel"}
    assert ("lut4", "group16") in found
    assert found["posit4", "group8"].scale_format == "ufloat8_e4m4"
    wide = {p.scale_format for p in candidates_of(conv, target("ort")) if p.format == "int8"}
    assert wide == {"float32", "ufloat8_e4m4"}  # scales weigh much where a channel has few inputs
    assert {p.granularity for p in candidates_of(matmul, target("ort"))} == {"channel"}  # 8 inputs
    assert {p.granularity for p in candidates_of(conv, target("cim"))} == {"channel"}
    assert not candidates_of(conv, target("cim"), formats=("posit4es1", "float8_e4m3fn"))
    with pytest.raises(FormatError, match="int9"):
        candidates_of(conv, target("ort"), formats=("int9",))


def test_coarse_fits_are_near_thorough_ones() -> None:
    w, h = weights()
    found = fit_candidates(w, plans(("fixp4", "posit4", "nf4", "pot4")), importance=h, prune=False)
    assert len(found.candidates) == 24
    for c in found.candidates:
        size = group_size(c.weight.granularity)
        thorough = fit(
            w,
            resolve(c.weight.format),
            granularity="group" if size else "channel",
            group_size=size or 2,
            rule="output-mse",
            scale_format="ufloat8_e4m4",
            importance=h,
        )
        assert c.loss == pytest.approx(loss_of(w, thorough.dequantize(), h), rel=0.06)
        assert c.loss == pytest.approx(loss_of(w, w + found.error(c), h), rel=1e-4)
        assert c.bits == stored_bits(w.shape, LayerFormat(c.weight, kernel=Kernel.WEIGHT_ONLY))


@pytest.mark.thorough
def test_kept_candidates_get_better_as_they_get_dearer() -> None:
    w, h = weights()
    found = fit_candidates(w, plans(), importance=h)
    losses, bits = [c.loss for c in found.candidates], [c.bits for c in found.candidates]
    assert losses == sorted(losses, reverse=True)
    assert bits == sorted(bits)
    assert 5 <= len(found.candidates) <= 12
    assert found.candidates[-1].weight.format == "int8"
    everything = fit_candidates(w, plans(), importance=h, prune=False)
    for c in everything.candidates:  # what is dropped is no better, but for the doubt of estimates
        assert min(k.loss for k in found.candidates if k.bits <= c.bits + 128) <= c.loss * 1.02
    assert fit_candidates(w, plans(), importance=h, most=4).candidates[-1] == found.candidates[-1]


def test_learned_tables_are_named_by_their_digits_and_replayed() -> None:
    w, h = weights()
    found = fit_candidates(w, plans(("lut4", "fixp4", "posit4"), ("channel", "group16")), importance=h)
    learned = [c for c in found.candidates if c.weight.format.startswith("lut4:")]
    assert learned
    for c in learned:
        resolve(c.weight.format)
        assert c.tensor.format.name == c.weight.format


def test_large_layers_are_judged_by_channels_spread_evenly() -> None:
    w, h = weights(96, 64)
    found = fit_candidates(w, plans(("fixp4",)), importance=h, sample_weights=1000)
    assert found.channels.tolist() == list(range(0, 96, 6))
    assert np.array_equal(found.sample, w[found.channels])
    whole = fit_candidates(w, plans(("fixp4",)), importance=h)
    for part, all_of_it in zip(found.candidates, whole.candidates, strict=True):
        assert part.bits == all_of_it.bits
        assert part.loss == pytest.approx(all_of_it.loss, rel=0.35)


def test_the_same_layer_gives_the_same_candidates() -> None:
    w, h = weights()
    one, two = (fit_candidates(w, plans(), importance=h) for _ in range(2))
    assert [(c.weight, c.loss, c.tensor) for c in one.candidates] == [
        (c.weight, c.loss, c.tensor) for c in two.candidates
    ]


def test_scales_stay_above_their_floor_and_odd_shapes_work() -> None:
    w, h = weights(5, 37)
    w[2] = 0
    floor = np.full(5, 0.05, np.float32)
    found = fit_candidates(w, plans(), importance=h, min_scale=floor, prune=False)
    for c in found.candidates:
        assert (c.tensor.int8_image()[1] >= floor).all()
        assert not c.tensor.dequantize()[2].any()
    assert fit_candidates(w[:1], plans(), importance=None).candidates


def test_another_rounding_is_applied_to_what_is_kept() -> None:
    w, h = weights()
    seen = []

    def rounded(rows, tensor):  # type: ignore[no-untyped-def]
        seen.append(tensor)
        return tensor

    summed = [replace(p, rounding="kernel-sums") for p in plans()]
    found = fit_candidates(w, summed, importance=h, rounded=rounded)
    assert len(seen) == len(found.candidates)


def test_formats_without_arithmetic_hold_weights_that_become_floats() -> None:
    net = "m (float[1,4,6,6] x) => (float[1,3,12,12] y) <float[4,3,2,2] w> { y = ConvTranspose <strides=[2,2]> (x, w) }"
    (node,) = LpGraph.from_proto(parse_model(net)).layers()
    assert not candidates_of(node, target("ort"))
    found = candidates_of(node, target("ort"), formats=("int8", "float8_e4m3fn"), expanded=True)
    assert {p.format for p in found} == {"int8", "float8_e4m3fn"}


def test_zero_weights_may_take_every_format() -> None:
    """Nothing is lost in any of them, so the fewest bits are as good as others."""
    found = fit_candidates(np.zeros((8, 32), np.float32), plans(), prune=False).candidates
    assert {c.weight.format.partition(":")[0] for c in found} == set(FORMATS)
    assert all(c.loss == 0 for c in found)
