"""The trial of a program: one sample, then two together, which tells of work that mixes samples."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lpcompile.backends.cim.trial import try_sample
from lpcompile.ir.graph import LpGraph
from lpcompile.runtime.host_sessions import HostSessions
from lpcompile.target import Trial
from tests.support import Array, parse_model

DOUBLE = "m (float[N,3] x) => (float[N,3] y) { y = Add (x, x) }"


class Simulated:
    """Doubles its input; where it is wrong, by one sample's numbers in place of another's, or by a last bit."""

    def __init__(self, wrong: str) -> None:
        self.wrong, self.observer = wrong, None

    def run(self, feeds: Mapping[str, Array], _: Any) -> SimpleNamespace:
        y = 2 * feeds["x"]
        if self.wrong == "mixes samples":
            y = y[::-1]
        elif self.wrong:
            y = np.nextafter(y, np.float32(np.inf))
        return SimpleNamespace(outputs={"y": y}, cycles=7, boot_cycles=3)


@pytest.mark.parametrize(
    ("wrong", "samples", "exact"),
    [("", 4, True), ("a last bit", 4, False), ("mixes samples", 4, False), ("mixes samples", 1, True)],
)
def test_samples_are_right_alone_and_together(wrong: str, samples: int, exact: bool) -> None:
    graph = LpGraph.from_proto(parse_model(DOUBLE))
    x = np.random.default_rng(0).normal(size=(samples, 3)).astype(np.float32)
    run_model = HostSessions(1)
    outputs = run_model(graph.to_proto().SerializeToString(), {"x": x})
    found = try_sample(Simulated(wrong), graph, Trial({"x": x}, outputs, run_model))  # type: ignore[arg-type]
    assert (found.exact, found.cycles, found.boot_cycles) == (exact, 7, 3)
