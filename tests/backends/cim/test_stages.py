"""Stages: every node once, in an order in which each finds what it reads."""

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from lpcompile.backends.cim.stages import Stage, host_model, read_names, split
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model, run_model

UNARY = ("Abs", "Neg", "Relu", "Sigmoid")


def graph(edges: Sequence[tuple[int, int, int]]) -> ModelProto:
    """A node for each (operator, reader of, reader of)."""
    nodes, names = [], ["x"]
    for i, (op, a, b) in enumerate(edges):
        left, right = names[a % len(names)], names[b % len(names)]
        nodes.append(f"[n{i}] t{i} = " + (f"Add ({left}, {right})" if op == 4 else f"{UNARY[op]} ({left})"))
        names.append(f"t{i}")
    outputs = ", ".join(f"float[2] {n}" for n in names[1:][-3:])
    return parse_model(f"g (float[2] x) => ({outputs}) {{ {chr(10).join(nodes)} }}")


def cut(model: ModelProto, device: set[str]) -> list[Stage]:
    nodes = {n.name: n for n in LpGraph.from_proto(model).nodes()}
    return split(model, nodes, lambda n: "" if n.name in device else "not wanted")


EDGES = st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9))


@given(st.lists(EDGES, min_size=1, max_size=9), st.sets(st.integers(0, 8)))
def test_stages_compute_the_graph(edges: list[tuple[int, int, int]], on: set[int]) -> None:
    model = graph(edges)
    device = {f"n{i}" for i in on}
    stages = cut(model, device)
    assert sorted(n for s in stages for n in s.nodes) == sorted(n.name for n in model.graph.node)
    assert all((n in device) == s.device for s in stages for n in s.nodes)
    assert all(a.device != b.device for a, b in itertools.pairwise(stages))
    assert {n for s in stages for n in s.reasons} == {n.name for n in model.graph.node} - device


def test_stages_run_one_after_the_other() -> None:
    model = graph([(0, 0, 0), (1, 1, 0), (4, 1, 2), (2, 3, 0), (4, 1, 4)])
    x = {"x": np.array([1.5, -2], np.float32)}
    values = dict(x)
    stages = cut(model, {"n1", "n3"})
    assert [s.device for s in stages] == [False, True, False, True, False]
    for stage in stages:
        found = run_model(host_model(model, stage), {n: values[n] for n in stage.inputs})
        assert list(found) == stage.outputs
        values |= found
    for name, wanted in run_model(model, x).items():
        np.testing.assert_array_equal(values[name], wanted)


def test_what_nobody_reads_leaves_no_stage() -> None:
    model = graph([(0, 0, 0), (1, 0, 0), (2, 1, 0), (0, 1, 0), (1, 1, 0)])  # t1 is read by none and no output
    (stage,) = cut(model, set())
    assert "t1" not in stage.outputs
    assert stage.inputs == ["x"]


def test_bodies_read_from_outside() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) {
        t = Abs (x)
        y = If (c) <
            then_branch = a () => (float[2] p) { p = Neg (t) },
            else_branch = b () => (float[2] q) { r = Neg (x)
                q = Add (r, t) }> }"""
    model = parse_model(text, check=False)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    assert set(read_names(model.graph.node[1])) == {"c", "t", "x"}
    first, second, third = cut(model, set()), cut(model, {"n0"}), cut(model, {"n0", "n1"})
    assert [len(s) for s in (first, second, third)] == [1, 2, 1]
    assert set(second[1].inputs) == {"c", "t", "x"}


def test_a_stage_takes_functions_that_functions_and_bodies_call() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (bool c, float[2] x) => (float[2] y) {
            t = own.Outer (x)
            y = If (c) <
                then_branch = a () => (float[2] p) { p = own.Branch (t) },
                else_branch = b () => (float[2] q) { q = Neg (t) }> }
        <opset_import: ["": 17, "own": 1], domain: "own"> Inner (x) => (y) { y = Abs (x) }
        <opset_import: ["": 17, "own": 1], domain: "own"> Outer (x) => (y) { y = own.Inner (x) }
        <opset_import: ["": 17], domain: "own"> Branch (x) => (y) { y = Relu (x) }
        <opset_import: ["": 17], domain: "own"> Unused (x) => (y) { y = Exp (x) }"""
    model = onnx.parser.parse_model(text)
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    data = host_model(model, Stage(False, ["n0", "n1"], ["c", "x"], ["y"]))
    assert [f.name for f in onnx.load_model_from_string(data).functions] == ["Inner", "Outer", "Branch"]
    feeds = {"c": np.array(True), "x": np.array([-1, 2], np.float32)}
    np.testing.assert_array_equal(run_model(data, feeds)["y"], [1, 2])


@pytest.mark.parametrize("device", [set(), {"n0", "n1"}])
def test_one_stage_where_one_will_do(device: set[str]) -> None:
    assert len(cut(graph([(0, 0, 0), (1, 1, 0)]), device)) == 1


def test_floats_of_codes_are_made_where_they_are_read() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] d) <float s = {0.1}, uint8 z = {3}> {
        [q] c = QuantizeLinear (x, s, z)
        [d] d = DequantizeLinear (c, s, z)
        [e] e = DequantizeLinear (c, s, z)
        [m] m = Identity (c)
        [f] f = DequantizeLinear (m, s, z)
        [a] a = Add (d, e)
        [b] b = Add (f, e)
        [y] y = Add (a, b) }"""
    model = parse_model(text)
    stages = cut(model, {"m"})
    assert [s.nodes for s in stages] == [["q", "d", "e", "a"], ["m"], ["e", "f", "b", "y"]]
    assert [s.outputs for s in stages] == [["c", "d", "a"], ["m"], ["y"]]
    assert stages[2].inputs == ["c", "m", "a"]
    assert set(stages[2].reasons) == set(stages[2].nodes)
    values = {"x": np.array([0.52, 1.7], np.float32)}
    for stage in stages:
        values |= run_model(host_model(model, stage), {n: values[n] for n in stage.inputs})
    np.testing.assert_array_equal(values["y"], run_model(model, {"x": values["x"]})["y"])


def test_a_stage_of_nothing_but_floats_that_others_make_is_none() -> None:
    text = """g (uint8[2] c) => (float[2] y) <float s = {0.1}, uint8 z = {3}> {
        [m] m = Identity (c)
        [f] f = DequantizeLinear (m, s, z)
        [k] k = Identity (m)
        [g] g = DequantizeLinear (k, s, z)
        [y] y = Add (f, g) }"""
    model = parse_model(text)
    stages = cut(model, {"m", "k"})
    assert [s.nodes for s in stages] == [["m", "k"], ["f", "g", "y"]]
