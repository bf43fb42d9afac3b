"""Min, Max and Clip of codes: tables where one table serves, the host's work where it does not."""

from pathlib import Path

import pytest

from tests.backends.cim.network_checks import check, compiled
from tests.support import parse_model, random_feeds

NETWORK = """net (uint8[N,6] x, float[N,3,4,4] z) => (uint8[N,6] y, float[N,2,4,4] w)
<uint8[6] c = {1, 200, 30, 4, 250, 60}, uint8[1] d = {90}, float[2,3,1,1] w1> { %s
w = Conv (z, w1) }"""


@pytest.mark.parametrize(("text", "reason"), [
    ("y = Min (x, c)", "its bounds differ by element"),
    ("y = Max (c, x)", "one operand is a constant"),
    ("y = Min (x, d)", ""),
])  # fmt: skip
def test_bounds(text: str, reason: str, tmp_path: Path) -> None:
    model = parse_model(NETWORK % text)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(4)], "reference", tmp_path)
    assert [h["reason"] for h in made.report["host"]] == ([reason] if reason else [])
    assert check(made, "reference", random_feeds(model, seed=9))
