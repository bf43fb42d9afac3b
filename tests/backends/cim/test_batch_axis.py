"""A program serves one sample: what works along a symbolic batch axis is the host's, or is told."""

from pathlib import Path

import numpy as np
import pytest

from tests.backends.cim.network_checks import check, compiled
from tests.support import parse_model, random_feeds

HEAD = """net (float[N,3,6,6] x) => (float[M,4,6,6] y)
<float[4,3,1,1] w1, float[4,4,1,1] w2, int64[1] zero = {0}, int64[1] one = {1}> {
"""
ALONG = {
    "Slice": "a = Conv (x, w1)  b = Slice (a, zero, one, zero)  y = Conv (b, w2) }",
    "Concat": "a = Conv (x, w1)  b = Concat <axis = 0> (a, a)  y = Conv (b, w2) }",
    "Add of a slice": "a = Conv (x, w1)  r = Relu (a)  b = Slice (r, zero, one, zero)  c = Add (r, b)"
    "  y = Conv (c, w2) }",
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", ALONG)
def test_what_works_along_the_batch_is_not_done_sample_by_sample(name: str, tmp_path: Path) -> None:
    model = parse_model(HEAD + ALONG[name])
    calls = [
        {"x": np.concatenate([random_feeds(model, seed=i + j)["x"] for j in range(3)])} for i in range(4)
    ]
    made = compiled(model, calls, "reference", tmp_path)
    assert any("batch axis" in h["reason"] for h in made.report["host"])
    feeds = {"x": np.concatenate([random_feeds(model, seed=20 + j)["x"] for j in range(3)])}
    assert check(made, "reference", feeds)


FOLDED = """net (float[N,5,4] x) => (float[N,5,3] y, float[N,2] z) <float[4,6] w1, float[6,3] w2, float[15,2] w3,
    int64[2] flat = {-1, 4}, int64[3] back = {-1, 5, 3}, int64[2] whole = {-1, 15}> {
    f = Reshape (x, flat)  [rows] a = MatMul (f, w1)  r = Relu (a)  [more] b = MatMul (r, w2)  y = Reshape (b, back)
    g = Reshape (y, whole)  [again] z = MatMul (g, w3) }"""


def test_rows_of_a_sample_that_are_folded_into_the_batch_are_the_hosts_until_they_are_out_again(
    tmp_path: Path,
) -> None:
    model = parse_model(FOLDED, check=False)
    calls = [
        {"x": np.concatenate([random_feeds(model, seed=i + j)["x"] for j in range(3)])} for i in range(4)
    ]
    made = compiled(model, calls, "reference", tmp_path)
    host = {h["node"]: h["reason"] for h in made.report["host"]}
    assert "folds an axis into it" in host["rows"]
    assert "folds an axis into it" in host["more"]
    assert "again" not in host
    assert check(made, "reference", {"x": calls[0]["x"][:2]})
    fixed = compiled(
        model, [{"x": calls[0]["x"][:1]}] * 4, "reference", tmp_path, input_shapes={"x": (1, 5, 4)}
    )
    assert not {"rows", "more", "again"} & {h["node"] for h in fixed.report["host"]}


def test_nodes_without_inputs_are_no_obstacle(tmp_path: Path) -> None:
    model = parse_model("""net (float[N,3] x) => (float[N,2] y, int64 n) <float[3,2] w> {
        s = SequenceEmpty <dtype = 1> ()  n = SequenceLength (s)  y = MatMul (x, w) }""")
    made = compiled(model, [random_feeds(model, seed=i) for i in range(4)], "reference", tmp_path)
    assert check(made, "reference", random_feeds(model, seed=9))
