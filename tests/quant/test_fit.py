import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lpcompile.errors import CalibrationError, FormatError
from lpcompile.formats.base import resolve
from lpcompile.formats.group import group_nearest, group_table, group_unit
from lpcompile.quant.error import sqnr_db
from lpcompile.quant.fit import RULES, fit, layer_levels
from lpcompile.quant.granularity import PerAxis, PerGroup, PerTensor
from lpcompile.quant.qtensor import QuantizedTensor

FOUR_BITS = ["fixp4", "posit4", "nf4", "pot4", "float4_e2m1fn"]
SCALE_FORMATS = ["float32", "ufloat8_e4m4"]


def gaussian(rows: int = 24, columns: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((rows, columns)) * rng.uniform(0.01, 0.5, (rows, 1))).astype(np.float32)


def channel_scales(q: QuantizedTensor) -> np.ndarray:
    return q.int8_image()[1]


@pytest.mark.parametrize("name", [*FOUR_BITS, "int8", "posit8", "float8_e4m3fn", "int3"])
@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
def test_codes_are_nearest_for_the_stored_scale(name: str, scale_format: str) -> None:
    """No other code comes nearer: the weights are rounded with the scale that is stored."""
    w, fmt = gaussian(), resolve(name)
    for granularity in ("tensor", "channel"):
        q = fit(w, fmt, granularity=granularity, scale_format=scale_format)
        levels = layer_levels(fmt).levels
        scales = q.scales.dequantize() if isinstance(q.scales, QuantizedTensor) else q.scales
        s = (
            np.broadcast_to(q.granularity.expand(scales, w.shape), w.shape).astype(np.float64)
            * fmt.image_scale
        )
        best = np.abs(w[..., None] - s[..., None] * levels).min(axis=-1)
        assert np.allclose(np.abs(w - q.dequantize()), best, rtol=1e-4, atol=1e-6 * np.abs(w).max())


@pytest.mark.parametrize("name", FOUR_BITS)
def test_codes_are_nearest_for_the_stored_groups(name: str) -> None:
    w, fmt = gaussian(columns=70), resolve(name)
    q = fit(w, fmt, granularity="group", scale_format="ufloat8_e4m4")
    assert isinstance(q.scales, QuantizedTensor)
    table = np.where(np.isnan(fmt.table()), 1e9, group_table(fmt).astype(np.float64))
    m = np.repeat(q.scales.codes, 32, axis=1)[:, :70]
    choices = channel_scales(q)[:, None, None] * table[m]
    best = np.abs(w[..., None] - choices).min(axis=-1)
    assert np.allclose(np.abs(w - q.dequantize()), best, rtol=1e-4, atol=1e-6 * np.abs(w).max())


@pytest.mark.sweep
@pytest.mark.parametrize("name", FOUR_BITS)
@pytest.mark.parametrize("importance", [None, "ramp"])
def test_group_search_is_near_exhaustive(name: str, importance: str | None) -> None:
    w, fmt = gaussian(6, 128), resolve(name)
    h = np.ones(128, np.float32) if importance is None else np.linspace(0.1, 2, 128, dtype=np.float32)
    q = fit(w, fmt, granularity="group", rule="mse" if importance is None else "output-mse", importance=h)
    found = ((w - q.dequantize()) ** 2 * h).sum(axis=1)
    nearest, unit = group_nearest(fmt), group_unit(fmt)
    start = np.abs(w).max(axis=1) / (15 * fmt.grid()[-1])
    best = np.full(6, np.inf)
    for ratio in np.geomspace(0.5, 3, 100):
        s = (start * ratio * unit).astype(np.float32)[:, None, None]
        x = w.reshape(6, 4, 32) / s
        errors = [
            (((x - nearest.round_block(x, np.full(x.shape, m, np.uint8))) * s) ** 2 * h.reshape(4, 32)).sum(
                axis=2
            )
            for m in range(1, 16)
        ]
        best = np.minimum(best, np.min(errors, axis=0).sum(axis=1))
    assert found.sum() <= 1.03 * best.sum()


@pytest.mark.parametrize(
    ("name", "gain_db"),
    [("fixp4", 1.5), ("posit4", 1.4), ("nf4", 1.4), ("float4_e2m1fn", 1.4), ("pot4", 1.2)],
)
def test_groups_are_better_than_channels(name: str, gain_db: float) -> None:
    w = gaussian(32, 1024)
    sqnr = {
        g: sqnr_db(w, fit(w, resolve(name), granularity=g, scale_format="ufloat8_e4m4").dequantize())
        for g in ("tensor", "channel", "group")
    }
    assert sqnr["group"] > sqnr["channel"] + gain_db
    assert sqnr["channel"] > sqnr["tensor"]


@pytest.mark.parametrize("name", FOUR_BITS)
@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_eight_bit_scales_cost_little(name: str, granularity: str) -> None:
    w = gaussian(32, 512)
    wide, narrow = (fit(w, resolve(name), granularity=granularity, scale_format=s) for s in SCALE_FORMATS)
    assert sqnr_db(w, narrow.dequantize()) > sqnr_db(w, wide.dequantize()) - 0.1
    assert narrow.bits_per_element < wide.bits_per_element


def test_shapes_and_bits() -> None:
    w = gaussian(24, 200)
    tensor = fit(w, resolve("int8"), granularity="tensor")
    assert tensor.granularity == PerTensor()
    assert tensor.bits_per_element == 8 + 32 / w.size
    channel = fit(w, resolve("posit4"), scale_format="ufloat8_e4m4")
    assert channel.granularity == PerAxis(0)
    assert channel.total_bits == 4 * w.size + 8 * 24 + 32
    group = fit(w, resolve("posit4"), granularity="group", scale_format="ufloat8_e4m4")
    assert group.granularity == PerGroup(32)
    assert isinstance(group.scales, QuantizedTensor)
    assert group.scales.shape == (24, 7)  # 200 = 6 * 32 + 8
    assert group.total_bits == 4 * w.size + 4 * 24 * 7 + 8 * 24 + 32


def test_rows_of_one_group_fall_back_to_channels() -> None:
    assert fit(gaussian(8, 32), resolve("fixp4"), granularity="group").granularity == PerAxis(0)
    assert fit(gaussian(8, 9), resolve("nf4"), granularity="group").has_int8_image


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
def test_every_rule_works_everywhere(rule: str, granularity: str, scale_format: str) -> None:
    w = gaussian(8, 100)
    h = np.linspace(0, 3, 100, dtype=np.float32)
    for name in ("int4", "posit4", "nf4"):
        q = fit(w, resolve(name), granularity=granularity, rule=rule, scale_format=scale_format, importance=h)
        assert sqnr_db(w, q.dequantize()) > (3 if granularity == "tensor" else 8)


def test_output_mse_lowers_the_weighted_error() -> None:
    w = np.random.default_rng(0).standard_t(4, (16, 256)).astype(np.float32)
    h = np.random.default_rng(1).lognormal(0, 2, 256).astype(np.float32)

    def weighted(q: QuantizedTensor) -> float:
        return float(((w - q.dequantize()) ** 2 * h).sum())

    for granularity in ("tensor", "channel", "group"):
        fmt = resolve("fixp4")
        plain = fit(w, fmt, granularity=granularity, rule="mse")
        aware = fit(w, fmt, granularity=granularity, rule="output-mse", importance=h)
        assert weighted(aware) < weighted(plain)


def test_absmax_clips_nothing() -> None:
    w = gaussian()
    for granularity in ("tensor", "channel", "group"):
        for scale_format in SCALE_FORMATS:
            for name in ("int8", "int4", "posit4"):
                if granularity == "group" and name == "int8":
                    continue
                q = fit(w, resolve(name), granularity=granularity, rule="absmax", scale_format=scale_format)
                s = channel_scales(q)
                reach = {"int8": 127, "int4": 7, "posit4": 16}[name]
                if granularity == "group":
                    assert isinstance(q.scales, QuantizedTensor)
                    top = group_table(resolve(name)).max(axis=1)[q.scales.codes]
                    limit = s[:, None] * np.repeat(top, 32, axis=1)[:, : w.shape[1]]
                    assert (np.abs(w) <= limit * 1.08).all()  # declared rows round the top level of small m
                else:
                    assert (np.abs(w) <= np.reshape(s, (-1, 1)) * reach * (1 + 1e-6)).all()


def test_npp_v2_through_fit() -> None:
    w = np.array([[0.31, -0.52, 0.07, 0, -0.88, 0.44, -0.13, 0.66]], np.float32)
    q = fit(w, resolve("int4"), rule="absmax")
    assert isinstance(q.scales, np.ndarray)
    assert q.scales[0] == pytest.approx(0.88 / 7)
    assert q.int8_image()[0].tolist() == [[2, -4, 1, 0, -7, 4, -1, 5]]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
@pytest.mark.parametrize("name", ["int4", "posit4", "nf4"])
def test_min_scale_is_kept(granularity: str, scale_format: str, name: str) -> None:
    w = gaussian(8, 100)
    floor = np.geomspace(1e-6, 0.3, 8).astype(np.float32)
    q = fit(w, resolve(name), granularity=granularity, scale_format=scale_format, min_scale=floor)
    assert (channel_scales(q) >= (floor.max() if granularity == "tensor" else floor)).all()
    free = fit(w, resolve(name), granularity=granularity, scale_format=scale_format)
    low = channel_scales(free) > 4 * floor
    if granularity != "tensor" and scale_format == "float32":
        assert low.any()
        assert np.array_equal(channel_scales(q)[low], channel_scales(free)[low])


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_zeros_stay_zeros(granularity: str, scale_format: str, rule: str) -> None:
    w = gaussian(6, 100)
    w[2] = 0
    w[4, 32:64] = 0
    h = np.ones(100, np.float32)
    for name in ("fixp4", "posit4", "pot4", "nf4"):
        q = fit(w, resolve(name), granularity=granularity, scale_format=scale_format, rule=rule, importance=h)
        assert not q.dequantize()[2].any()
        assert not q.dequantize()[4, 32:64].any()
        if granularity != "tensor":  # a row of zeros borrows the resolution of its neighbours, for its bias
            s = channel_scales(q)
            assert s.min() * 0.99 <= s[2] <= s.max() * 1.01
        dead = fit(
            np.zeros_like(w),
            resolve(name),
            granularity=granularity,
            scale_format=scale_format,
            rule=rule,
            importance=h,
        )
        assert not dead.dequantize().any()
        assert (channel_scales(dead) > 0).all()


def test_a_codebook_without_zero_still_gives_almost_zero() -> None:
    fmt = resolve("lut4:" + bytes(range(1, 17)).hex())
    w = np.zeros((4, 8), np.float32)
    w[0] = 1
    q = fit(w, fmt)
    assert np.abs(q.dequantize()[1:]).max() < 1e-30


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_magnitude_does_not_matter(scale: float, granularity: str) -> None:
    w = gaussian(8, 100)
    expected = sqnr_db(w, fit(w, resolve("posit4"), granularity=granularity).dequantize())
    scaled = (w * np.float32(scale)).astype(np.float32)
    for scale_format in SCALE_FORMATS:
        found = fit(
            scaled, resolve("posit4"), granularity=granularity, scale_format=scale_format
        ).dequantize()
        assert sqnr_db(scaled, found) > expected - 0.3


def test_a_power_of_two_changes_only_the_scale() -> None:
    w = gaussian(8, 100)
    for granularity in ("tensor", "channel", "group"):
        for scale_format in SCALE_FORMATS:
            one = fit(w, resolve("nf4"), granularity=granularity, scale_format=scale_format)
            two = fit(w * np.float32(2), resolve("nf4"), granularity=granularity, scale_format=scale_format)
            assert np.array_equal(one.codes, two.codes)
            assert np.array_equal(2 * channel_scales(one), channel_scales(two))


def test_rows_are_fitted_on_their_own() -> None:
    """Blocks of channels are a matter of speed only."""
    w = gaussian(300, 700)
    whole = fit(w, resolve("posit4"), granularity="group")
    part = fit(w[150:160], resolve("posit4"), granularity="group")
    assert np.array_equal(whole.codes[150:160], part.codes)
    assert np.array_equal(channel_scales(whole)[150:160], channel_scales(part))


def test_dead_inputs_do_not_disturb() -> None:
    w = gaussian(4, 96)
    w[:, :32] *= 4
    h = np.ones(96, np.float32)
    h[:32] = 0
    q = fit(w, resolve("int4"), granularity="group", rule="output-mse", importance=h)
    assert sqnr_db(w[:, 32:], q.dequantize()[:, 32:]) > 8
    assert np.array_equal(
        fit(w, resolve("int4"), rule="output-mse", importance=np.zeros(96, np.float32)).codes,
        fit(w, resolve("int4")).codes,
    )


weights = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 80)),
    elements=st.floats(-1e6, 1e6, width=32) | st.just(0.0),
)


@given(
    weights,
    st.sampled_from(FOUR_BITS),
    st.sampled_from(["tensor", "channel", "group"]),
    st.sampled_from(SCALE_FORMATS),
)
@settings(max_examples=60)
def test_any_weights(w: np.ndarray, name: str, granularity: str, scale_format: str) -> None:
    q = fit(w, resolve(name), granularity=granularity, scale_format=scale_format)
    w8, s = q.int8_image()
    assert q.shape == w.shape
    assert np.isfinite(q.dequantize()).all()
    assert (s > 0).all()
    assert np.array_equal(q.dequantize(), w8.astype(np.float32) * s.reshape(-1, 1))
    if w.any() and granularity != "tensor":
        # Never worse than writing zeros.
        assert ((w - q.dequantize()).astype(np.float64) ** 2).sum() <= 1.0001 * (
            w.astype(np.float64) ** 2
        ).sum()


@pytest.mark.parametrize("name", FOUR_BITS)
@pytest.mark.parametrize("tiny", [5e-23, 1e-44])
def test_a_channel_far_below_the_least_scale_is_zero(name: str, tiny: float) -> None:
    """The scale it may have is so far above it that squares of their ratio overflow."""
    w = np.full((2, 33), tiny, np.float32)
    w[0, 0] = 3e4
    dequantized = fit(w, resolve(name), granularity="group", scale_format="ufloat8_e4m4").dequantize()
    assert dequantized[0, 0] == pytest.approx(3e4, rel=0.1)
    assert not dequantized[1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "best"}, "no scale rule is called 'best'"),
        ({"granularity": "row"}, "no granularity is called 'row'"),
        ({"scale_format": "float8_e4m3fn"}, "cannot be stored as 'float8_e4m3fn'"),
    ],
)
def test_unknown_words(change: dict[str, str], message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        fit(gaussian(), resolve("int4"), **change)  # type: ignore[arg-type]
    assert caught.value.hint is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    w = gaussian()
    w[3, 7] = value
    for granularity in ("tensor", "channel", "group"):
        with pytest.raises(FormatError, match="NaN or infinity"):
            fit(w, resolve("int4"), granularity=granularity)


def test_shapes_that_cannot_be_fitted() -> None:
    with pytest.raises(FormatError, match="are empty"):
        fit(np.zeros((0, 4), np.float32), resolve("int4"))
    with pytest.raises(FormatError, match=r"must be \(C_out, K\)"):
        fit(np.zeros(4, np.float32), resolve("int4"))
    with pytest.raises(FormatError, match="uint4 cannot hold negative weights"):
        fit(gaussian(), resolve("uint4"))
    with pytest.raises(FormatError, match="int8 takes no integer group scales"):
        fit(gaussian(), resolve("int8"), granularity="group")


@pytest.mark.parametrize(
    "importance",
    [None, np.ones(3, np.float32), np.full(200, np.nan, np.float32), np.full(200, -1, np.float32)],
)
def test_second_moments_that_are_unusable(importance: np.ndarray | None) -> None:
    with pytest.raises(CalibrationError, match="second moments"):
        fit(gaussian(), resolve("int4"), rule="output-mse", importance=importance)
