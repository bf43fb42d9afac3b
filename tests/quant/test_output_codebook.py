"""Tables for what GPTQ rounds: against float64, every other single level, and the codes that follow."""

import numpy as np
import pytest

from lpcompile.formats.arrays import F32, F64
from lpcompile.formats.codebook import LearnedTable
from lpcompile.quant.codebook_search import Fitting, fit_codebook
from lpcompile.quant.gptq import rounded_values
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.output_codebook import improved_table, table_for_targets
from lpcompile.quant.qtensor import QuantizedTensor
from tests.support_gram import fitted, gram_of, inputs, losses, weights

DAMPING = 0.01


def layer(
    granularity: str, count: int, seed: int, columns: int = 18
) -> tuple[F32, F64, InputMetric, Fitting]:
    """Weights, damped matrices, metric, and how scales are found."""
    x = inputs(columns, count=count, seed=seed)
    h = gram_of(x)
    metric = InputMetric(h.astype(np.float32), x.mean(axis=1), False, damping=DAMPING)
    damped = h + DAMPING * np.trace(h, axis1=1, axis2=2)[:, None, None] / columns * np.eye(columns)
    fitting = Fitting(granularity, 6, "output-mse", "ufloat8_e4m4", metric.importance)
    return weights(16, columns, seed), damped, metric, fitting


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ["int4", "posit4", "posit8"])
def test_the_loss_is_a_sum_of_squares_of_what_is_rounded(name: str, count: int) -> None:
    """In float64, one input after the other; and the codes of GPTQ are the nearest to these values."""
    w, damped, metric, _ = layer("channel", count, 0)
    tensor = metric.rounded(w, fitted(w, name), rounds=0)
    x = rounded_values(w, tensor, metric.factors).astype(np.float64)
    squares = metric.row_variances(16) * (x - tensor.dequantize()) ** 2
    np.testing.assert_allclose(squares.sum(axis=1), losses(w, tensor, damped), rtol=1e-4)
    scale = np.asarray(tensor.scales, np.float32).reshape(-1, 1)
    again = tensor.format.encode_f32(x.astype(np.float32), np.broadcast_to(scale, w.shape))
    assert (again == tensor.codes).mean() > 0.99  # but for ties in float32


@pytest.mark.parametrize("granularity", ["channel", "group"])
@pytest.mark.parametrize("count", [1, 4])
def test_no_other_single_level_suits_the_targets_better(granularity: str, count: int) -> None:
    """Nearest codes of the targets under the same steps, squares counted in float64."""
    w, _, metric, fitting = layer(granularity, count, 1)
    tensor = metric.rounded(w, fit_codebook(w, fitting, rounds=0), rounds=0)
    found = np.frombuffer(bytes.fromhex(table_for_targets(w, tensor, metric).name[5:]), np.int8).astype(int)
    x = rounded_values(w, tensor, metric.factors).astype(np.float64)
    steps = tensor.int8_image()[1].astype(np.float64).reshape(-1, 1)
    m = np.full(w.shape, 15)
    if granularity == "group":
        assert isinstance(tensor.scales, QuantizedTensor)
        m = tensor.granularity.expand(tensor.scales.codes, tensor.shape).astype(int)
    else:
        steps = steps * tensor.format.max / 127

    def loss(levels: np.ndarray) -> float:
        values = steps[..., None] * np.rint(m[..., None] * levels / 15)
        squares = ((x[..., None] - values) ** 2).min(axis=-1)
        return float((metric.row_variances(16) * squares).sum())

    least = loss(found)
    for j in range(16):
        for v in (found[j] - 2, found[j] - 1, found[j] + 1, found[j] + 2):
            other = np.where(np.arange(16) == j, v, found)
            if found[j] and abs(found[j]) < 127 and abs(v) <= 127 and len(set(other)) == 16:
                assert loss(other) >= least * (1 - 1e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("granularity", ["channel", "group"])
@pytest.mark.parametrize("count", [1, 16])  # one matrix; one a row, as of a depthwise convolution
def test_the_table_of_a_layer_is_never_worse_once_codes_are_chosen(granularity: str, count: int) -> None:
    gains = []
    for seed in range(4):
        w, damped, metric, fitting = layer(granularity, count, seed)
        start = fit_codebook(w, fitting)
        found = improved_table(w, fitting, metric, start, rounds=0)
        before, after = (losses(w, metric.rounded(w, t, rounds=0), damped).sum() for t in (start, found))
        gains.append(10 * np.log10(before / after))
        assert isinstance(found.format, LearnedTable)
        assert found == fitting.fit(w, found.format)  # so decisions replay it
        assert found == improved_table(w, fitting, metric, start, rounds=0)
    assert min(gains) >= -1e-6
    assert max(gains) > 0.1


@pytest.mark.sweep
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (3, 7)])
@pytest.mark.parametrize("samples", ["none alive", "one", "constant"])
def test_degenerate_layers_have_a_table_too(
    granularity: str, size: float, rows: int, columns: int, samples: str
) -> None:
    x = inputs(columns, samples=1 if samples == "one" else 5)
    x = np.zeros_like(x) if samples == "none alive" else x
    x = np.ones_like(x) if samples == "constant" else x
    metric = InputMetric.of(gram_of(x).astype(np.float32), x.mean(axis=1), centred=True)
    w = np.float32(size) * weights(rows, columns)
    fitting = Fitting(granularity, 2, "output-mse", "ufloat8_e4m4", metric.importance)
    start = fit_codebook(w, fitting)
    found = improved_table(w, fitting, metric, start, rounds=0)
    before, after = (
        row_losses(w, metric.rounded(w, t, rounds=0), metric.matrix, damping=metric.damping).sum()
        for t in (start, found)
    )
    assert after <= before
    assert np.isfinite(found.dequantize()).all()
