"""Factors of a side path: what they start from, gradients of the smooth function behind them, their grids."""

import numpy as np
import pytest

from lpcompile.errors import PassError
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.side_paths import repaired
from lpcompile.quant.fit import fit
from lpcompile.quant.rows import to_rows
from lpcompile.tuning.factors import FactorLayer
from tests.support import Array, parse_model

CONV = "m (float[1,3,5,5] x) => (float[1,8,3,3] y) <float[8,3,3,3] w, float[8] b> { y = Conv (x, w, b) }"
GEMM = "m (float[1,9] x) => (float[1,7] y) <float[9,7] w, float[7] b> { y = Gemm (x, w, b) }"


def layer(text: str, granularity: str = "channel", rank: int = 3) -> FactorLayer:
    node = LpGraph.from_proto(parse_model(text)).nodes()[0]
    weight, bias = node.inputs[1:]
    assert weight is not None
    assert bias is not None
    rows = to_rows(node.op, weight.values)
    tensor = fit(rows, resolve("fixp4"), granularity=granularity, group_size=3)
    return FactorLayer(node, repaired(rows, tensor, rank, None), np.asarray(bias.values, np.float32))


def moved(tuned: FactorLayer, spread: float = 3) -> dict[str, Array]:
    rng = np.random.default_rng(4)
    values = tuned.start()
    for a in values.values():
        a += rng.normal(0, spread, a.shape).astype(np.float32)
    tuned.hold(values)
    return values


@pytest.mark.parametrize("text", [CONV, GEMM])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_the_start_is_the_plan_bit_for_bit(text: str, granularity: str) -> None:
    tuned = layer(text, granularity)
    values = tuned.start()
    feeds = tuned.feeds(values)
    np.testing.assert_array_equal(to_rows(tuned.op, feeds["weight"]), tuned.tensor.dequantize())
    np.testing.assert_array_equal(feeds["bias"], tuned.bias)
    assert tuned.round(values) == tuned.tensor
    assert tuned.moved(values) == 0


@pytest.mark.parametrize("text", [CONV, GEMM])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_gradients_are_those_of_the_function_without_roundings(text: str, granularity: str) -> None:
    tuned = layer(text, granularity)
    values, side = moved(tuned), tuned.tensor.side
    assert side is not None
    w8, scale = (x.astype(np.float64) for x in tuned.tensor.main.int8_image())
    units = side.multipliers * float(side.unit)
    seed = np.random.default_rng(5).normal(size=w8.shape)

    def smooth(at: dict[str, Array]) -> float:
        b, a = (at[f"{tuned.name}/{role}"].astype(np.float64) for role in "ba")
        return float((seed * scale.reshape(-1, 1) * (w8 + (b * units) @ a)).sum())

    shaped = seed if tuned.op == "Conv" else seed.T
    tuned.feeds(values)
    found = tuned.gradients({"weight": shaped.reshape(tuned.shape).astype(np.float32)})
    assert set(found) == {f"{tuned.name}/b", f"{tuned.name}/a"}
    for name, gradient in found.items():
        for i in range(gradient.size):
            step = np.zeros(gradient.shape, np.float32)
            step.reshape(-1)[i] = 1
            ends = [smooth({**values, name: values[name] + sign * step}) for sign in (1, -1)]
            assert gradient.reshape(-1)[i] == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_a_state_is_held_in_eight_bits_and_the_main_path_stays(granularity: str) -> None:
    tuned = layer(CONV, granularity)
    values = moved(tuned)
    found, was = tuned.round(values), tuned.tensor
    assert found.side is not None
    assert was.side is not None
    assert found.main.digest() == was.main.digest()
    for role in "ba":
        np.testing.assert_array_equal(getattr(found.side, role), np.rint(values[f"{tuned.name}/{role}"]))
    for kept in ("multipliers", "unit", "steps", "step_unit"):
        np.testing.assert_array_equal(getattr(found.side, kept), getattr(was.side, kept))
    product = (found.side.b * found.side.multipliers * found.side.unit).astype(np.float64) @ found.side.a
    before = (was.side.b * was.side.multipliers * was.side.unit).astype(np.float64) @ was.side.a
    share = np.linalg.norm(product - before) / np.linalg.norm(before)
    assert tuned.moved(values) == pytest.approx(share, rel=1e-5)
    assert share > 0.01
    feeds = tuned.feeds(values)
    np.testing.assert_array_equal(to_rows(tuned.op, feeds["weight"]), found.dequantize())


def test_less_than_half_a_step_changes_nothing() -> None:
    tuned = layer(CONV)
    values = tuned.start()
    for role in "ba":
        values[f"{tuned.name}/{role}"] += np.float32(0.49)
    assert tuned.round(values) == tuned.tensor
    values[f"{tuned.name}/a"][0, 0] += np.float32(0.02)
    assert tuned.round(values) != tuned.tensor


def test_factors_keep_to_their_range() -> None:
    tuned = layer(CONV)
    values = tuned.start()
    values[f"{tuned.name}/b"] += 300
    tuned.hold(values)
    side = tuned.round(values).side
    assert side is not None
    assert (side.b == 127).all()


def test_a_layer_without_a_path_has_no_factors() -> None:
    node = LpGraph.from_proto(parse_model(GEMM)).nodes()[0]
    weight = node.inputs[1]
    assert weight is not None
    tensor = fit(to_rows(node.op, weight.values), resolve("fixp4"))
    with pytest.raises(PassError, match="no factors to train"):
        FactorLayer(node, tensor)
