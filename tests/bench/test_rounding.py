"""Parts of the experiments on rounding: variations that vary, rows beside other tools, ranks."""

import numpy as np
import pytest

from lpcompile.formats.base import resolve
from lpcompile.quant.fit import fit
from lpcompile.quant.gram_loss import row_losses
from lpcompile.quant.input_metric import InputMetric
from tests.bench.experiments.prepared_entry import SHARE, draws
from tests.bench.experiments.rivals import HEADER, Ours, compared
from tests.bench.experiments.rounding_ablation import STEPS
from tests.bench.experiments.rounding_formats import _ranks
from tests.bench.experiments.varied_metric import Variation, varied
from tests.support import Array
from tests.zoo.baselines import Baseline, EntryBaselines


@pytest.fixture
def metric() -> InputMetric:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)) + 1, 0).astype(np.float32)
    moments = np.asarray(x.T @ x / len(x), np.float32)[None]
    return InputMetric.of(moments, x.mean(0, dtype=np.float64)[None], centred=True, damping=0.1)


@pytest.fixture
def rows() -> Array:
    return np.random.default_rng(1).standard_normal((12, 24)).astype(np.float32)


def codes(rows: Array, metric: InputMetric) -> Array:
    tensor = fit(rows, resolve("fixp4"), rule="output-mse", importance=metric.importance)
    return metric.rounded(rows, tensor).dequantize()


def test_no_variation_is_what_the_compiler_does(rows: Array, metric: InputMetric) -> None:
    found = varied({"a": metric, "b": metric}, Variation())
    assert found["a"] is found["b"]
    assert np.array_equal(codes(rows, found["a"]), codes(rows, metric))


@pytest.mark.parametrize("name", ["damped", "conditional", "sweeps", "centred", "orders", "adaround"])
def test_each_variation_changes_something(rows: Array, metric: InputMetric, name: str) -> None:
    found = varied({"a": metric}, Variation(**{name: not getattr(Variation(), name)}))["a"]
    assert not np.array_equal(codes(rows, found), codes(rows, metric))


def test_more_ways_lose_no_more(rows: Array, metric: InputMetric) -> None:
    tensor = fit(rows, resolve("fixp4"), rule="output-mse", importance=metric.importance)
    plain = row_losses(rows, metric.rounded(rows, tensor), metric.matrix, damping=metric.damping)
    for variation in (Variation(orders=True), Variation(adaround=True)):
        found = varied({"a": metric}, variation)["a"].rounded(rows, tensor)
        assert (row_losses(rows, found, metric.matrix, damping=metric.damping) <= plain * (1 + 1e-6)).all()


def test_without_centring_the_matrix_is_that_of_second_moments(metric: InputMetric) -> None:
    found = varied({"a": metric}, Variation(centred=False))["a"]
    outer = metric.mean[0][:, None] * metric.mean[0]
    assert not found.centred
    np.testing.assert_allclose(found.matrix[0], metric.matrix[0] + outer, rtol=1e-6)


def test_steps_stand_against_steps() -> None:
    names = [s.name for s in STEPS]
    assert len(set(names)) == len(names)
    assert {s.against for s in STEPS} <= set(names)


def test_draws() -> None:
    samples = {"x": np.arange(40), "y": np.arange(40) + 100}
    assert [d is samples for d in draws(samples, 1)] == [True]
    found = list(draws(samples, 3))
    assert [len(d["x"]) for d in found] == [round(SHARE * 40)] * 3
    assert all(np.array_equal(d["x"] + 100, d["y"]) for d in found)
    assert len({d["x"].tobytes() for d in found}) == 3


def test_beside_other_tools() -> None:
    others = EntryBaselines(
        "perplexity",
        8.0,
        [
            Baseline("W4A8", "slow", "a", 8.4, 0.4, 20.0, 1000, 60.0),
            Baseline("W4A8 ends 8", "slower", "b", 8.8, 0.8, 12.0, 2000, 90.0),
            Baseline("W4A8", "fast", "c", 8.8, 0.8, 19.0, 1000, 1.0),
            Baseline("W8A8", "other widths", "d", 8.0, 0.0, 40.0, 1000, 99.0),
            Baseline("W4A8", "broken", "e", None, None, None, 1000, 99.0),
        ],
    )
    ours = Ours(8.0, 8.16, 0.02, None, None, None, 18.0, 900, 700, 4.5, 10.0)
    row = dict(zip(HEADER, ("entry", "auto", 1, *compared(ours, "W4A8", others, "perplexity")), strict=True))
    assert row["best other"] == "slow a"
    assert row["SQNR gain dB"] == pytest.approx(-2.0)
    assert row["bytes / its bytes"] == pytest.approx(0.9)
    assert row["drop gain"] == pytest.approx(0.4 / 8 - 0.02)
    assert (row["slower others"], row["slower and beaten"]) == (2, 1)
    assert row["slower and not beaten"] == "slow a (20 dB in 60 s)"
    assert len(compared(ours, "W4A8", None, "perplexity")) == len(HEADER) - 3


def test_ranks() -> None:
    assert _ranks([3.0, 5.0, 3.0, 1.0]) == [2.5, 1.0, 2.5, 4.0]
    assert _ranks([3.0, None]) == [None, None]
