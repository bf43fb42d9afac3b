"""The quantiser of latent weights against the quantiser of the compiler and a brute search over the tables."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32
from lpcompile.formats.base import resolve
from lpcompile.formats.group import group_table
from lpcompile.quant.fit import fit, layer_levels
from lpcompile.quant.nearest_codes import channel_scales, nearest_codes, with_channel_scales
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.tuning.quantiser import WeightQuantiser

CASES = [
    (fmt, granularity, scale_format)
    for fmt in ("fixp4", "posit4", "nf4", "int8", "posit8", "posit4es1")
    for granularity in ("tensor", "channel", "group")
    for scale_format in ("float32", "ufloat8_e4m4")
    if granularity != "group" or fmt in ("fixp4", "posit4", "nf4")
]


def weights(seed: int = 0) -> F32:
    return (np.random.default_rng(seed).standard_t(4, (6, 70)) * 0.1).astype(np.float32)


def planned(fmt: str, granularity: str, scale_format: str, rule: str = "mse") -> QuantizedTensor:
    return fit(weights(), resolve(fmt), granularity=granularity, rule=rule, scale_format=scale_format)


@pytest.mark.parametrize(("fmt", "granularity", "scale_format"), CASES)
def test_rounding_the_fitted_weights_gives_the_fitted_codes(
    fmt: str, granularity: str, scale_format: str
) -> None:
    tensor = planned(fmt, granularity, scale_format)
    assert nearest_codes(weights(), tensor) == tensor


@pytest.mark.parametrize(("fmt", "granularity", "scale_format"), CASES)
def test_cells_are_those_of_a_search_over_the_levels(fmt: str, granularity: str, scale_format: str) -> None:
    tensor = planned(fmt, granularity, scale_format)
    quantiser = WeightQuantiser(tensor)
    w = weights(1)
    cells = quantiser.cells(w, quantiser.round(w).dequantize())
    scales = tensor.scales
    for (row, column), x in np.ndenumerate(cells.x):
        if tensor.has_integer_groups:
            assert isinstance(scales, QuantizedTensor)
            m = scales.codes[row, column // 32]
            levels = np.unique(group_table(tensor.format)[m][np.isfinite(tensor.format.table())])
        else:
            levels = layer_levels(tensor.format).levels
        i = int(np.clip((levels <= x).sum() - 1, 0, len(levels) - 2))
        assert (cells.low[row, column], cells.high[row, column]) == (levels[i], levels[i + 1])
        assert bool(cells.inside[row, column]) == bool(levels[0] <= x <= levels[-1])
        assert abs(cells.value[row, column] - x) <= np.abs(levels - x).min() + 1e-4


@pytest.mark.parametrize(("fmt", "granularity", "scale_format"), CASES)
def test_latent_weights_start_at_the_planned_codes(fmt: str, granularity: str, scale_format: str) -> None:
    tensor = planned(fmt, granularity, scale_format)
    rng = np.random.default_rng(2)
    usable = layer_levels(tensor.format).codes
    other = rng.choice(usable, tensor.shape).astype(np.uint8)
    moved = WeightQuantiser(
        QuantizedTensor(
            np.where(rng.random(tensor.shape) < 0.3, other, tensor.codes),
            tensor.format,
            tensor.granularity,
            tensor.scales,
        )
    )
    wanted = moved.tensor.dequantize()
    latent = moved.start(weights())
    np.testing.assert_array_equal(moved.round(latent).dequantize(), wanted)
    kept = nearest_codes(weights(), tensor).dequantize() == wanted
    near = np.abs(latent - weights()) <= 0.01 * np.abs(weights()).max()
    assert near[kept].all(), "weights that round to their codes stay"


@pytest.mark.parametrize("scale_format", ["float32", "ufloat8_e4m4"])
@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_new_scales_are_stored_in_the_old_form(granularity: str, scale_format: str) -> None:
    tensor = planned("fixp4", granularity, scale_format)
    old = channel_scales(tensor)
    wanted = (old * np.float32(0.83)).astype(np.float32)
    changed = with_channel_scales(tensor, wanted)
    found = channel_scales(changed)
    assert type(changed.scales) is type(tensor.scales)
    assert found.shape == old.shape
    np.testing.assert_allclose(found, wanted, rtol=0 if scale_format == "float32" else 0.035)
    assert with_channel_scales(tensor, old) == tensor
