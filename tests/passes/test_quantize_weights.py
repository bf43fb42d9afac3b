"""`quantize-weights`: codes near the weights, the bias fits, what cannot be exact falls back and says why."""

from typing import Any

import numpy as np
import onnx
import pytest

from lpcompile.errors import FormatError, PassOptionError
from lpcompile.passes.quantize_weights import QuantizeWeights
from lpcompile.plan import SUMMING, Kernel
from lpcompile.quant.accumulators import BIAS_UNITS
from lpcompile.quant.error import sqnr_db
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.rows import to_rows
from tests.quantizing import NO_COSTS, Quantized, quantized, same_plan
from tests.support import parse_model

CONV = """m (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w, float[4] b> { y = Conv (x, w, b) }"""
MLP = """m (float[4,96] x) => (float[4,8] y) <float[96,64] w, float[64] b, float[64,8] v> {
    h = Gemm (x, w, b)  r = Relu (h)  y = MatMul (r, v)
}"""
DEPTHWISE = """m (float[2,16,8,8] x) => (float[2,12,8,8] y) <float[16,1,3,3] w, float[16] b, float[12,8,1,1] v> {
    p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
    a = Conv <group = 16, pads = [1, 1, 1, 1]> (p, w, b)  r = Relu (a)  y = Conv <group = 2> (r, v)
}"""
GROUPED = "granularity=group,group-size=32,rule=mse,scale-format=ufloat8_e4m4"


def with_weights(options: str, text: str = MLP, **kwargs: Any) -> Quantized:
    return quantized(text, f"{NO_COSTS},quantize-weights{{{options}}}", **kwargs)


def weight_sqnr_db(found: Quantized) -> float:
    worst = np.inf
    for node in found.graph.layers():
        tensor, weight = found.graph.plan.layers[node.name].tensor, node.inputs[1]
        assert tensor is not None
        assert weight is not None
        worst = min(worst, sqnr_db(to_rows(node.op, weight.values), tensor.dequantize()))
    return worst


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("options", "least_db"),
    [
        ("format=int8", 40),
        ("format=int8,granularity=tensor", 35),
        ("format=int8,rule=mse", 40),
        ("format=fixp4,rule=mse", 17),
        (f"format=fixp4,{GROUPED}", 19),
        (f"format=posit4,{GROUPED}", 17),
        (f"format=nf4,{GROUPED}", 19),
        ("format=nf4,rule=output-mse,scale-format=ufloat8_e4m4", 17),
    ],
)
def test_codes_come_near_the_weights(options: str, least_db: float) -> None:
    found = with_weights(options)
    assert weight_sqnr_db(found) > least_db
    assert found.sqnr_db() > least_db - 6
    for layer in found.layers.values():
        assert layer.codes_sha256
        assert layer.weight.format == options.split(",")[0].partition("=")[2]
        assert layer.weight.granularity in ("group32", "channel", "tensor")


def test_integer_groups_beat_channels() -> None:
    groups = weight_sqnr_db(with_weights(f"format=fixp4,{GROUPED}"))
    channels = weight_sqnr_db(with_weights("format=fixp4,rule=mse,scale-format=ufloat8_e4m4"))
    assert groups > channels + 1


def test_a_second_run_changes_nothing() -> None:
    found = with_weights("format=nf4")
    before = found.graph.copy()
    again = found.rerun("quantize-weights{format=int8}")
    assert again["quantize-weights"].changes == []
    assert same_plan(before, found.graph)


def test_a_layer_kept_float_is_skipped_with_its_reason() -> None:
    found = quantized("m (double[4,6] x) => (double[4,3] y) <double[6,3] w> { y = MatMul (x, w) }")
    assert found.skip_reason("quantize-weights", "MatMul") == "weights are float64, not float32"
    assert found.sqnr_db() > 300  # nothing changed


def test_weights_that_two_layers_share_stay_shared_codes() -> None:
    found = quantized(
        """m (float[4,6] x) => (float[4,6] y) <float[6,6] w, float[6] b> {
            h = Gemm (x, w, b)  y = Gemm (h, w, b)
        }"""
    )
    digests = {layer.tensor.digest() for layer in found.layers.values() if layer.tensor is not None}
    assert len(digests) == 1
    assert found.sqnr_db() > 30


def test_a_layer_without_weights_stays_float() -> None:
    found = quantized("m (float[4,6] x) => (float[4,0] y) <float[6,0] w> { y = MatMul (x, w) }")
    assert found.skip_reason("quantize-weights", "MatMul") == "it has no weights"
    assert found.layer("MatMul").kernel is Kernel.FLOAT


def test_a_format_without_int8_image_is_expanded_at_load() -> None:
    found = with_weights("format=float8_e4m3fn")
    for layer in found.layers.values():
        assert layer.kernel is Kernel.WEIGHT_ONLY
        assert "float8_e4m3fn has no int8 image" in layer.reason
    assert found.sqnr_db() > 25


LONG = "m (float[1,40000] x) => (float[1,2] y) <float[40000,2] w> { y = MatMul (x, w) }"


def test_long_sums_are_integers_where_the_weights_prove_that_they_fit() -> None:
    layer = quantized(parse_model(LONG), calls=4).layer("MatMul")
    assert layer.kernel in SUMMING
    assert layer.tensor is not None
    w8, _ = layer.tensor.int8_image()
    assert np.abs(w8.astype(np.int64)).sum(axis=1).max() * 255 < 2**30


def test_long_sums_that_could_overflow_the_accumulator_are_not_taken_as_integers() -> None:
    model = parse_model(LONG)
    same = np.full((40000, 2), 0.5, np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(same, "w"))
    layer = quantized(model, calls=4).layer("MatMul")
    assert layer.kernel is Kernel.WEIGHT_ONLY
    assert layer.reason == (
        "a sum of its 40000 products may reach 1295400000, which int32 does not hold beside a bias"
    )


def test_a_large_bias_widens_the_scale_until_it_fits() -> None:
    model = parse_model(CONV)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1e-9)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    found = quantized(model)
    node, layer = found.graph.layers()[0], found.layer("Conv")
    assert layer.tensor is not None
    _, scale = layer.tensor.int8_image()
    bias, x = node.inputs[2], node.inputs[0]
    assert bias is not None
    assert x is not None
    units = np.abs(bias.values) / (scale.reshape(-1) * found.graph.plan.activations[x.name].scale)
    assert units.max() <= BIAS_UNITS * (1 + 1e-6)
    assert found.sqnr_db() > 30


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_an_error_of_the_input(bad: float) -> None:
    found = quantized(CONV, NO_COSTS)
    node = found.graph.layers()[0]
    weight = node.inputs[1]
    assert weight is not None
    values = weight.values.copy()
    values[0, 0, 0, 0] = bad
    found.graph.set_weights(node, values, None)
    with pytest.raises(FormatError, match="weights are NaN or infinite") as caught:
        found.rerun("quantize-weights")
    assert caught.value.where == node.name
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "option 'rule' is one of absmax, percentile, mse"),
        ({"granularity": "row"}, "option 'granularity' is one of tensor, channel, group, not 'row'"),
        (
            {"granularity": "group", "format": "fixp4", "group-size": "1"},
            "option 'group-size' is at least 2, not 1",
        ),
        ({"granularity": "group"}, "int8 takes no integer group scales"),
        ({"scale-format": "bfloat3"}, "option 'scale-format' is one of float32, ufloat8_e4m4, not 'bfloat3'"),
        ({"rounding": "up"}, "option 'rounding' is one of nearest"),
    ],
)
def test_wrong_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(PassOptionError) as caught:
        QuantizeWeights.configured(options)
    assert message in caught.value.message
    assert caught.value.hint == "see 'lpcompile passes quantize-weights'"


def test_a_format_that_does_not_exist_draws_the_nearest() -> None:
    with pytest.raises(FormatError) as caught:
        QuantizeWeights.configured({"format": "fixp44"})
    assert caught.value.message == "no number format is called 'fixp44'"
    assert caught.value.hint is not None
    assert "fixp4" in caught.value.hint


GPTQ = f"format=fixp4,{GROUPED},rounding=gptq"


def test_gptq_lowers_the_noise_of_the_outputs_and_corrects_biases() -> None:
    """Where inputs are alike, errors of their weights make up for each other."""
    text = """m (float[16,24] x) => (float[16,8] y) <float[96,64] w, float[64] b, float[64,8] v> {
        c = Concat <axis = 1> (x, x, x, x)  h = Gemm (c, w, b)  r = Relu (h)  y = MatMul (r, v)
    }"""
    nearest, found = (with_weights(o, text, calls=20) for o in (f"format=fixp4,{GROUPED}", GPTQ))
    assert found.sqnr_db() > nearest.sqnr_db() + 2
    assert weight_sqnr_db(found) < weight_sqnr_db(nearest)  # the weights themselves are further away
    assert {layer.weight.rounding for layer in found.layers.values()} == {"gptq"}
    assert found.layer("Gemm").bias_correction is not None
    assert found.layer("MatMul").bias_correction is None


def test_without_samples_gptq_says_what_it_cannot_regard() -> None:
    found = with_weights(GPTQ, calls=0)
    reason = "not rounded with regard to its outputs: no calibration data, so its inputs are not known"
    assert found.skip_reason("quantize-weights", "Gemm") == reason
    assert found.skip_reason("quantize-weights", "MatMul") == reason
    assert {layer.weight.rounding for layer in found.layers.values()} == {"kernel-sums"}
    assert found.sqnr_db() > 12


def test_sweeps_end_below_gptq_alone_and_cannot_be_negative() -> None:
    alone, swept = (with_weights(f"{GPTQ},sweeps={n}", calls=60) for n in (0, 2))
    pairs = [(alone.layer(op).local_sqnr_db, swept.layer(op).local_sqnr_db) for op in ("Gemm", "MatMul")]
    assert all(a is not None and b is not None and a < b for a, b in pairs)
    with pytest.raises(PassOptionError, match="'sweeps' is at least 0"):
        QuantizeWeights.configured({"sweeps": "-1"})


@pytest.mark.sweep
@pytest.mark.parametrize(
    "options", [f"format=fixp4,{GROUPED}", "format=nf4,rule=mse", f"format=posit4,{GROUPED}", "format=lut4"]
)
@pytest.mark.parametrize("text", [MLP, DEPTHWISE])
def test_learned_rounding_loses_no_more_than_gptq_in_any_layer(options: str, text: str) -> None:
    alone, found = (with_weights(f"{options},sweeps=0,rounding={r}", text) for r in ("gptq", "adaround"))
    gains = []
    for name, layer in found.layers.items():
        assert layer.weight.rounding == "adaround"
        assert layer.local_sqnr_db is not None
        before = alone.layers[name].local_sqnr_db
        assert before is not None
        gains.append(layer.local_sqnr_db - before)
    assert min(gains) > -0.05  # the damped error is what falls
    assert max(gains) > 0.01
    assert {c.what.split(", ")[-1] for c in found.reports["quantize-weights"].changes} == {"adaround"}


def test_without_samples_learned_rounding_says_what_it_cannot_regard() -> None:
    found = with_weights(f"format=fixp4,{GROUPED},rounding=adaround", calls=0)
    reason = "not rounded with regard to its outputs: no calibration data, so its inputs are not known"
    assert found.skip_reason("quantize-weights", "Gemm") == reason
    assert {layer.weight.rounding for layer in found.layers.values()} == {"kernel-sums"}


TWINS = """m (float[4,24] x, float[4,24] z) => (float[4,16] y, float[4,16] q)
<float[16,24] w, float[16] b, float[16] c> {
    y = Gemm <transB = 1> (x, w, b)  k = Mul (z, z)  q = Gemm <transB = 1> (k, w, c)
}"""


@pytest.mark.parametrize("options", ["rule=output-mse,rounding=kernel-sums", "rounding=gptq"])
def test_layers_of_the_same_weights_share_their_codes(options: str) -> None:
    """Inputs of the two are unlike; each would choose other codes and scales, and the file would hold both."""
    found = with_weights(options, TWINS)
    one, other = (found.layer("Gemm", i) for i in (0, 1))
    assert one.codes_sha256 == other.codes_sha256
    stored = [i for i in found.emitted().graph.initializer if list(i.dims) == [24, 16]]
    assert len(stored) == 1
    assert found.sqnr_db() > 35


def test_fewer_bits_are_chosen_by_the_inputs_of_each_layer() -> None:
    found = with_weights("format=fixp4,rounding=gptq", TWINS)
    assert found.layer("Gemm", 0).codes_sha256 != found.layer("Gemm", 1).codes_sha256


def test_codes_are_not_shared_where_a_bias_would_not_fit() -> None:
    model = parse_model(TWINS)
    for tensor in model.graph.initializer:
        if tensor.name == "c":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(16, 1e7, np.float32), "c"))
    found = with_weights("format=int8", model)
    one, other = (found.layer("Gemm", i) for i in (0, 1))
    assert one.codes_sha256 != other.codes_sha256
    assert one.kernel is other.kernel


TRIPLETS = """m (float[4,24] x) => (float[4,24] y) <float[24,24] w, float[24] b, float[24] c> {
    p = Gemm (x, w, b)  r = Relu (p)  q = Gemm (r, w, c)  s = Tanh (q)  y = Gemm (s, w, b)
}"""


def test_many_layers_of_the_same_weights_share_codes_of_few_bits() -> None:
    """Three copies of 4 bits would take more than one of 8; rounding again moves their biases alone."""
    found = with_weights("format=fixp4,rounding=gptq", parse_model(TRIPLETS, seed=1))
    shared = found.layer("Gemm", 0).codes_sha256
    assert [found.layer("Gemm", i).codes_sha256 for i in (1, 2)] == [shared] * 2
    before = found.layer("Gemm", 2).bias_correction
    assert before is not None
    found.rerun("requantize-weights")
    assert [found.layer("Gemm", i).codes_sha256 for i in range(3)] == [shared] * 3
    after = found.layer("Gemm", 2).bias_correction
    assert after is not None
    assert not np.array_equal(before, after)


def test_shared_codes_are_chosen_by_the_inputs_of_all() -> None:
    """Errors of the outputs of two layers together, whose inputs lie in planes of their own."""
    rng = np.random.default_rng(5)
    bases = [rng.normal(size=(24, 6)) for _ in range(2)]
    moments = [(b @ b.T + 0.01 * np.eye(24))[None].astype(np.float32) for b in bases]
    first, second = (InputMetric.of(m, np.zeros((1, 24)), centred=False) for m in moments)
    rows = rng.normal(size=(16, 24)).astype(np.float32)
    start = with_weights("format=fixp4", TWINS).layer("Gemm").tensor
    assert start is not None
    noise = [
        sum(m.signal_and_noise(rows, by.rounded(rows, start))[1] for m in (first, second))
        for by in (first.beside([second]), first)
    ]
    assert noise[0] < 0.9 * noise[1]


PEAKED = """m (float[1,32,8,8] x) => (float[1,8,8,8] y) <float[32,32,3,3] w, float[8,32,3,3] v> {
    q = AveragePool <kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]> (x)
    [merged] a = Conv <pads = [1, 1, 1, 1]> (q, w)  k = Mul (q, c)  s = Add (a, k)  r = Relu (s)
    [plain] y = Conv <pads = [1, 1, 1, 1]> (r, v)
}""".replace("float[8,32,3,3] v", "float[8,32,3,3] v, float c = {20.0}")


def test_rows_with_one_large_weight_are_rounded_by_their_inputs() -> None:
    """As the sum of a convolution and twenty times its input."""
    found = {}
    for peak_db in (0, 18):
        passes = (
            f"merge-branches,{NO_COSTS},quantize-weights{{rounding=kernel-sums,peak-db={peak_db},sweeps=0}}"
        )
        made = quantized(PEAKED, passes, calls=20)
        roundings = {n: p.weight.rounding for n, p in made.layers.items()}
        assert roundings == {"merged": "gptq" if peak_db else "kernel-sums", "plain": "kernel-sums"}
        local = made.layers["merged"].local_sqnr_db
        assert local is not None
        found[peak_db] = local
    assert found[18] > found[0] + 3


def test_without_samples_rows_with_one_large_weight_are_rounded_as_others() -> None:
    passes = f"merge-branches,{NO_COSTS},quantize-weights{{peak-db=18}}"
    made = quantized(PEAKED, passes, calls=0)
    assert all(p.tensor is not None for p in made.layers.values())
    assert {n: p.weight.rounding for n, p in made.layers.items()} == {
        "merged": "kernel-sums",
        "plain": "nearest",
    }
