"""Streamed moments against numpy's over all calls at once."""

import numpy as np
import pytest

from lpcompile.analysis.channel_moments import ChannelMoments


@pytest.mark.parametrize(
    ("shape", "trailing"), [((2, 5, 3, 4), 2), ((7, 5), 0), ((2, 3, 5), 0), ((1, 5, 6), 1)]
)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_are_those_of_all_calls_together(
    shape: tuple[int, ...], trailing: int, offset: float
) -> None:
    rng = np.random.default_rng(0)
    calls = [(offset + rng.normal(i, 1 + i, shape)).astype(np.float32) for i in range(4)]
    found = ChannelMoments(trailing)
    for x in calls:
        found.add(x)
    axis = len(shape) - 1 - trailing
    rows = np.moveaxis(np.stack(calls).astype(np.float64), axis + 1, 0).reshape(5, -1)
    assert found.count == rows.shape[1]
    np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.deviation, rows.std(1), rtol=1e-9)


def test_calls_of_no_numbers_say_nothing() -> None:
    found = ChannelMoments(1)
    found.add(np.zeros((0, 3, 2), np.float32))
    assert found.count == 0
    found.add(np.ones((1, 3, 2), np.float32))
    assert found.mean.tolist() == [1, 1, 1]
    assert found.deviation.tolist() == [0, 0, 0]
