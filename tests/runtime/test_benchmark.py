"""What counts as slower, and that runs are paired."""

from collections.abc import Iterator
from typing import Any

import pytest

from lpcompile.runtime import benchmark
from lpcompile.runtime.benchmark import MEASUREMENTS, NOISE, PAIRS, WARM_UP, Timing, timed


@pytest.mark.parametrize(
    ("ratios", "slower"),
    [
        ([1.0] * 8, False),
        ([NOISE + 0.01] * 8, True),
        ([NOISE - 0.01] * 8, False),
        ([0.9, 0.9, 0.9, 1.3, 1.3, 1.3, 1.3, 1.3], False),  # a quarter of the pairs says otherwise
        ([0.9, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1], True),
        ([0.5] * 7 + [90.0], False),
    ],
)
def test_slower_means_beyond_noise(ratios: list[float], slower: bool) -> None:
    found = Timing.of([(2.0, 2.0 * r) for r in ratios])
    assert not Timing.of([(0.01, 0.01 * r) for r in ratios if r < 2]).slower  # that is the price of a call
    assert found.slower is slower
    assert found.quartiles[0] <= found.ratio <= found.quartiles[1]
    assert found.float_ms == 2.0


class Model:
    """A session that takes as long as it is told to."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def run(self, _feeds: Any) -> None:
        self.log.append(self.name)


def test_runs_are_paired_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clock = iter(range(100000))
    monkeypatch.setattr("lpcompile.runtime.benchmark.time.perf_counter", lambda: next(clock))
    found = timed(lambda: Model("a", log), lambda: Model("b", log), {})  # type: ignore[arg-type,return-value]
    measured = "".join(log[2 * WARM_UP :])
    assert measured == ("abba" * PAIRS)[: 2 * PAIRS]
    assert found.ratio == 1


FAST, SLOW = Timing(1, 0.9, 0.9, (0.8, 1)), Timing(1, 2, 2, (1.9, 2.1))


@pytest.mark.parametrize(
    ("times", "slower", "loads"),
    [([FAST], False, 1), ([SLOW, FAST], False, 2), ([SLOW] * MEASUREMENTS, True, 3)],
)
def test_what_looks_slower_is_loaded_and_measured_again(
    times: list[Timing], slower: bool, loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: Iterator[Timing] = iter(times)
    monkeypatch.setattr(benchmark, "_measured", lambda *_: next(found))
    log: list[str] = []

    def load() -> Any:
        log.append("load")

    assert timed(load, load, {}).slower is slower
    assert len(log) == 2 * loads
    assert next(found, None) is None
