"""A layer with frozen codes: what it starts from, its gradients by central differences, its limits."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.quant.fit import fit
from lpcompile.quant.nearest_codes import channel_scales
from lpcompile.quant.rows import to_rows
from lpcompile.tuning.frozen_codes import FrozenLayer
from lpcompile.tuning.parameters import SCALE_STEPS
from tests.support import Array, parse_model

CONV = "m (float[1,3,5,5] x) => (float[1,4,3,3] y) <float[4,3,3,3] w, float[4] b> { y = Conv (x, w, b) }"
GEMM = "m (float[1,9] x) => (float[1,4] y) <float[9,4] w, float[4] b> { y = Gemm (x, w, b) }"


def layer(
    text: str,
    *,
    fmt: str = "fixp4",
    granularity: str = "channel",
    scale_format: str = "float32",
    least: float = 0,
) -> FrozenLayer:
    node = LpGraph.from_proto(parse_model(text)).nodes()[0]
    weight, bias = node.inputs[1:]
    assert weight is not None
    assert bias is not None
    rows = to_rows(node.op, weight.values)
    tensor = fit(rows, resolve(fmt), granularity=granularity, group_size=4, scale_format=scale_format)
    shares = np.full(4, least, np.float32) if least else None
    return FrozenLayer(node, tensor, bias=np.asarray(bias.values, np.float32), least_shares=shares)


def key(tuned: FrozenLayer, role: str) -> str:
    return f"{tuned.name}/{role}"


@pytest.mark.parametrize("text", [CONV, GEMM])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("scale_format", ["float32", "ufloat8_e4m4"])
def test_the_start_is_the_plan_bit_for_bit(text: str, granularity: str, scale_format: str) -> None:
    tuned = layer(text, granularity=granularity, scale_format=scale_format)
    values = tuned.start()
    feeds = tuned.feeds(values)
    np.testing.assert_array_equal(to_rows(tuned.op, feeds["weight"]), tuned.tensor.dequantize())
    assert tuned.bias is not None
    np.testing.assert_array_equal(feeds["bias"], tuned.bias)
    assert tuned.round(values) is tuned.tensor
    assert not tuned.moved(values).any()


@pytest.mark.parametrize("fmt", ["fixp4", "posit4", "nf4"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_gradients_are_those_of_central_differences(fmt: str, granularity: str) -> None:
    tuned = layer(CONV, fmt=fmt, granularity=granularity)
    rng = np.random.default_rng(2)
    values = tuned.start()
    for a in values.values():
        a += rng.normal(0, 0.3, a.shape).astype(np.float32)
    weights = {k: rng.normal(size=a.shape) for k, a in tuned.feeds(values).items()}

    def loss(at: dict[str, Array]) -> float:
        return sum(float((weights[k] * a.astype(np.float64)).sum()) for k, a in tuned.feeds(at).items())

    tuned.feeds(values)
    found = tuned.gradients({k: a.astype(np.float32) for k, a in weights.items()})
    assert set(found) == set(values)
    for name, gradient in found.items():
        for i in range(gradient.size):
            step = np.zeros(gradient.size, np.float32)
            step[i] = 0.25
            ends = [
                loss({**values, name: values[name] + sign * step.reshape(gradient.shape)}) for sign in (1, -1)
            ]
            assert gradient.reshape(-1)[i] == pytest.approx((ends[0] - ends[1]) / 0.5, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_stored_scales_stay_in_their_format_and_codes_as_they_are(granularity: str) -> None:
    tuned = layer(CONV, granularity=granularity, scale_format="ufloat8_e4m4")
    values = tuned.start()
    small = {**values, key(tuned, "scale"): values[key(tuned, "scale")] * np.float32(1.001)}
    np.testing.assert_array_equal(tuned.round(small).digest(), tuned.tensor.digest())
    moved = tuned.round({**values, key(tuned, "scale"): values[key(tuned, "scale")] * np.float32(1.1)})
    np.testing.assert_array_equal(moved.codes, tuned.tensor.codes)
    ratio = channel_scales(moved) / channel_scales(tuned.tensor)
    assert ((ratio > 1.06) & (ratio < 1.14)).all()
    assert moved.total_bits == tuned.tensor.total_bits


def test_a_layer_without_trained_scales_keeps_them() -> None:
    tuned = layer(CONV)
    fixed = FrozenLayer(tuned.node, tuned.tensor, False, tuned.bias)
    assert set(fixed.start()) == {key(fixed, "bias")}
    fixed.hold(fixed.start())
    assert fixed.moved(fixed.start()).size == 0
    assert set(fixed.gradients(fixed.feeds(fixed.start()))) == {key(fixed, "bias")}


@pytest.mark.parametrize(
    ("least", "granularity", "wanted"), [(0, "channel", 0.25), (0.8, "channel", 0.8), (3, "tensor", 1)]
)
def test_scales_keep_to_their_limits(least: float, granularity: str, wanted: float) -> None:
    """Int32 biases fit: a scale that is at its least already may only grow."""
    tuned = layer(CONV, least=least, granularity=granularity)
    values = tuned.start()
    values[key(tuned, "scale")][:] = 0
    tuned.hold(values)
    np.testing.assert_allclose(values[key(tuned, "scale")], wanted * SCALE_STEPS, rtol=1e-6)
