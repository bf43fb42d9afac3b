"""From nodes to work: what each node becomes, and what keeps one on the host."""

from pathlib import Path

import pytest

from tests.backends.cim.network_checks import assert_equal, check, compiled, program_of, simulated
from tests.backends.cim.random_machines import description
from tests.support import parse_model, random_feeds, run_model


@pytest.mark.thorough
@pytest.mark.parametrize("activation", ["uint4", "uint8"])
def test_pads_are_codes_as_well_even_where_no_value_is_as_large(activation: str, tmp_path: Path) -> None:
    text = """net (float[N,3,6,6] x) => (float[N,2,6,6] y)
        <float[4,3,1,1] w1, float far = {-100}, float[2,4,3,3] w2> {
        a = Conv (x, w1)
        b = Transpose <perm = [0, 1, 3, 2]> (a)
        c = Add (b, far)
        y = Conv <pads = [1, 1, 1, 1]> (c, w2) }"""
    model = parse_model(text)  # c: every value far below 0, whose code is the largest
    calls = [random_feeds(model, seed=i) for i in range(4)]
    made = compiled(model, calls, "reference", tmp_path, activation_format=activation)
    feeds = random_feeds(model, seed=9)
    assert_equal(simulated(program_of(made), description("reference"), feeds), run_model(made.model, feeds))


@pytest.mark.parametrize("group", [1, 3])
def test_windows_of_nothing_but_padding(group: int, tmp_path: Path) -> None:
    text = f"""net (float[N,3,2,2] x) => (float[N,3,3,6] y) <float[3,{3 // group},1,2] w1, float[3,3,1,1] w2> {{
        a = Conv <group = {group}, pads = [0, 3, 1, 2]> (x, w1)
        y = Conv (a, w2) }}"""
    model = parse_model(text)
    calls = [random_feeds(model, seed=i) for i in range(4)]
    made = compiled(model, calls, "reference", tmp_path)
    assert not made.report["host"]
    assert check(made, "reference", random_feeds(model, seed=9), interpreter=True)


def test_a_node_that_reads_one_tensor_twice_is_a_table(tmp_path: Path) -> None:
    text = """net (float[N,3,5,5] x) => (float[N,2,5,5] y, float[N,2,4,4] z) <float[3,3,1,1] w1, float[2,3,1,1] w2> {
        a = Conv (x, w1)
        b = Tanh (a)
        c = MaxPool <kernel_shape = [2, 2]> (b)
        z = Conv (c, w2)
        d = Max (b, b)
        y = Conv (d, w2) }"""
    model = parse_model(text)
    made = compiled(model, [random_feeds(model, seed=i) for i in range(4)], "reference", tmp_path)
    assert not made.report["host"]
    assert check(made, "reference", random_feeds(model, seed=9))
