"""`double-quantize`: scales of few bits, weights rounded with them; stored as small as they say; replays."""

from pathlib import Path

import numpy as np
import pytest

import lpcompile
from lpcompile.errors import DecisionsError, FormatError, PassOptionError
from lpcompile.formats.base import resolve
from lpcompile.passes.double_quantize import FLOAT, HELD, NOT_ASKED, ONE_SCALE, TABLES
from lpcompile.plan import QuantPlan
from lpcompile.quant.double_quantization import quantised_scales, with_quantised_scales
from lpcompile.quant.fit import fit
from lpcompile.quant.multipliers import held_multipliers
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.registry import pass_class
from lpcompile.runtime.layer_check import check_layers
from tests.quantizing import NO_COSTS, quantized
from tests.support import parse_model, random_feeds

S = np.array([0.0123, 0.0091, 0.03, 0.0007, 0.0178], np.float32)
MODES = {"po2": "{mode=po2}", "dyadic-8": "", "dyadic-4": "{bits=4}", "linear-8": "{mode=linear}"}
NET = """m (float[4,37] x) => (float[4,5] y) <float[37,12] w1, float[12] b1, float[12,5] w2, float[5] b2> {
    [one] h = Gemm (x, w1, b1)  r = Relu (h)  [two] y = Gemm (r, w2, b2)
}"""


def floats(scales: "np.ndarray | QuantizedTensor") -> np.ndarray:
    return scales.dequantize() if isinstance(scales, QuantizedTensor) else scales


def test_linear_codes() -> None:
    found = quantised_scales(S, "linear-8")
    assert isinstance(found, QuantizedTensor)
    np.testing.assert_array_equal(found.codes, [105, 77, 255, 6, 151])
    errors = found.dequantize().astype(np.float64) / S - 1
    np.testing.assert_allclose(errors, [0.0043, -0.0045, 0, 0.0084, -0.0020], atol=5e-5)
    tiny = quantised_scales(np.array([1.0, 1e-6], np.float32), "linear-8")
    assert isinstance(tiny, QuantizedTensor)
    np.testing.assert_array_equal(tiny.codes, [255, 1])


@pytest.mark.parametrize("mode", ["po2", "dyadic-8", "dyadic-5", "dyadic-2"])
def test_scales_of_few_bits_are_the_nearest_and_exact_in_storage(mode: str) -> None:
    found = quantised_scales(S, mode)
    np.testing.assert_array_equal(
        floats(found).astype(np.float64), held_multipliers(S.astype(np.float64), mode)
    )
    assert isinstance(found, QuantizedTensor) == (mode != "dyadic-8")
    wide = quantised_scales(np.array([1e-9, 1.0], np.float32), mode)
    assert not isinstance(wide, QuantizedTensor)
    np.testing.assert_array_equal(wide.view(np.uint32) & 0xFFFF, 0)


def test_bits_are_counted() -> None:
    w = np.random.default_rng(0).standard_normal((8, 100)).astype(np.float32)
    plain = fit(w, resolve("int4"))
    payload = 4 * w.size
    assert plain.total_bits == payload + 8 * 32
    assert with_quantised_scales(plain, "dyadic-8").total_bits == payload + 8 * 16
    assert with_quantised_scales(plain, "po2").total_bits == payload + 8 * 8 + 32
    grouped = fit(w, resolve("int4"), granularity="group", group_size=32)
    assert grouped.total_bits - with_quantised_scales(grouped, "dyadic-4").total_bits == 8 * (32 - 8) - 32


def test_scales_of_blocks_on_two_levels_take_little() -> None:
    w = np.random.default_rng(1).standard_normal((4, 4096)).astype(np.float32)
    blocks = with_quantised_scales(fit(w, resolve("int4"), granularity="group", group_size=64), "dyadic-5")
    assert (blocks.total_bits - 4 * w.size) / w.size < 0.13
    assert blocks.has_int8_image


@pytest.mark.sweep
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_weights_are_rounded_with_the_scales_that_are_stored(mode: str, grouped: bool) -> None:
    weights = "quantize-weights{format=int4,rule=mse" + (
        ",granularity=group,group-size=5}" if grouped else "}"
    )
    plain = quantized(NET, f"{NO_COSTS},{weights}", calls=8)
    found = quantized(NET, f"{NO_COSTS},{weights},correct-bias,double-quantize{MODES[mode]}", calls=8)
    before, after = plain.graph.plan.layers["two"], found.graph.plan.layers["two"]
    assert before.tensor is not None
    assert after.tensor is not None
    assert after.weight.double_quantized == mode
    scaled = with_quantised_scales(before.tensor, mode)
    np.testing.assert_array_equal(channel_scales(after.tensor), channel_scales(scaled))
    weight = found.graph.node("two").inputs[1]
    assert weight is not None
    rows = np.ascontiguousarray(weight.values.T)
    np.testing.assert_array_equal(after.tensor.codes, nearest_codes(rows, scaled).codes)
    gain = np.abs(scaled.dequantize() - rows).sum()
    assert np.abs(after.tensor.dequantize() - rows).sum() <= gain
    feeds = random_feeds(found.original, seed=4)
    for form in ("functions", "standard", "qdq"):
        assert all(c.different == 0 for c in check_layers(found.emitted(form), feeds))
    stored = {t.name: t for t in found.emitted().graph.initializer}
    assert any(len(t.raw_data) == 5 * (2 if mode == "dyadic-8" else 1) for t in stored.values())
    assert not found.rerun(f"double-quantize{MODES[mode]}")["double-quantize"].changes


def test_every_reason() -> None:
    found = quantized(NET, f"{NO_COSTS},quantize-weights,quantnorm,double-quantize", calls=8)
    assert found.skip_reason("double-quantize", "one") == HELD
    tensor = quantized(NET, f"{NO_COSTS},quantize-weights{{granularity=tensor}},double-quantize", calls=8)
    assert tensor.skip_reason("double-quantize", "two") == ONE_SCALE
    none = quantized(NET, f"{NO_COSTS},quantize-weights", calls=0)
    none.graph.plan = QuantPlan()
    assert none.rerun("double-quantize")["double-quantize"].skips[0].reason == FLOAT
    tables = quantized(NET, f"{NO_COSTS},quantize-weights{{format=int4}}", calls=8)
    layer = tables.graph.plan.layers["two"]
    from dataclasses import replace

    books = replace(layer.weight, codebooks=("80a0b8ccdce8f400081018222e405a7f",) * 5)
    tables.graph.plan = tables.graph.plan.with_layer("two", replace(layer, weight=books))
    assert TABLES in {s.reason for s in tables.rerun("double-quantize")["double-quantize"].skips}


def test_a_replay_does_what_the_file_says(tmp_path: Path) -> None:
    model = parse_model(NET)
    calls = [random_feeds(model, seed=i) for i in range(6)]
    passes = f"canonicalize,fold-batchnorm,{NO_COSTS},quantize-weights,double-quantize{{mode=linear}}"
    first = lpcompile.compile(model, calibration=calls, passes=passes)
    path = tmp_path / "d.toml"
    path.write_text(first.decisions, "utf-8")
    again = lpcompile.compile(model, calibration=calls, decisions=path)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(
        deterministic=True
    )
    line = 'double_quantized = "linear-8"\n'
    assert line in first.decisions
    path.write_text(first.decisions.replace(line, 'double_quantized = "po2"\n'), "utf-8")
    assert "po2" in lpcompile.compile(model, calibration=calls, decisions=path).decisions
    path.write_text(first.decisions.replace(line, ""), "utf-8")
    left = lpcompile.compile(model, calibration=calls, decisions=path)
    assert NOT_ASKED in str(left.report["passes"])
    path.write_text(first.decisions.replace(line, 'double_quantized = "log"\n'), "utf-8")
    with pytest.raises(DecisionsError, match="channel scales have no mode 'log'"):
        lpcompile.compile(model, calibration=calls, decisions=path)


def test_options_that_mean_nothing() -> None:
    for options in ({"mode": "log"}, {"bits": 1}, {"bits": 9}):
        with pytest.raises(PassOptionError):
            pass_class("double-quantize").configured(options)
    with pytest.raises(FormatError, match="channel scales have no mode"):
        quantised_scales(S, "dyadic-9")
