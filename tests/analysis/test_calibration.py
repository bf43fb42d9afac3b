"""Which samples decide and which judge; the sweep over them."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcompile.analysis.calibration import HELD_BACK_MOST, Calibration, Feeds, collect_statistics
from lpcompile.errors import CalibrationError
from tests.support import Array


def calls(n: int) -> list[Feeds]:
    return [{"x": np.full(3, i, np.float32)} for i in range(n)]


def labels(feeds: list[Feeds]) -> list[int]:
    return [int(f["x"][0]) for f in feeds]


@pytest.mark.thorough
@given(st.integers(4, 500))
def test_deciding_and_judging_split_the_calls(n: int) -> None:
    calibration = Calibration(calls(n))
    deciding, judging = labels(calibration.deciding), labels(calibration.judging)
    assert sorted(deciding + judging) == list(range(n))
    assert not set(deciding) & set(judging)
    assert 2 <= len(judging) <= HELD_BACK_MOST
    assert len(deciding) >= n / 2
    assert calibration.has_held_back
    gaps = np.diff([-1, *judging, n])
    assert gaps.max() <= 2 * n / len(judging) + 2  # spread over the whole set, which may be sorted by class


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_with_few_calls_all_decide_and_all_judge(n: int) -> None:
    calibration = Calibration(calls(n))
    assert labels(calibration.deciding) == labels(calibration.judging) == list(range(n))
    assert not calibration.has_held_back


def test_one_sweep_gathers_every_tensor_and_tells_its_progress() -> None:
    ran, told = [], []

    def run(feeds: Mapping[str, Array]) -> Feeds:
        ran.append(feeds["x"][0])
        return {"double": 2 * feeds["x"].reshape(1, 3), "negative": -feeds["x"], "unasked": feeds["x"]}

    found = collect_statistics(
        run,
        calls(4),
        ["double", "negative"],
        {"double": 1},
        lambda done, total: told.append((done, total)),
    )
    assert ran == [0, 1, 2, 3]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(found) == ["double", "negative"]
    assert (found["double"].low, found["double"].high) == (0, 6)
    assert (found["negative"].low, found["negative"].high) == (-3, 0)
    np.testing.assert_array_equal(found["double"].channel_mean, [3, 3, 3])
    assert found["negative"].channel_mean is None


def test_an_activation_that_is_not_finite_is_named() -> None:
    broken = {"fine": np.ones(1, np.float32), "broken": np.array([1, np.nan], np.float32)}
    with pytest.raises(
        CalibrationError, match="activation is not finite on the calibration samples"
    ) as caught:
        collect_statistics(lambda _: broken, calls(2), ["fine", "broken"])
    assert caught.value.where == "broken"
    assert caught.value.hint == "check the samples' preprocessing, or the model itself with 'lpcompile run'"
    assert caught.value.exit_code == 3
