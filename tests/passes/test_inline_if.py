"""An `If` whose condition is constant gives way to its branch: `fold-constants` with `inline_if`."""

import onnx
import pytest

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_constants import FoldConstants
from lpcompile.passes.inline_if import inline_if
from tests.passes.rewriting import left_alone, rewrite
from tests.support import parse_model

IF = """
    m (float[4] x) => (float[4] y) <bool on = {{{on}}}, float[4] outer>
    {{ t = Abs (x)
       y = If (on) <then_branch = g1 () => (float[4] a) <float[4] w = {{1, 2, 3, 4}}>
                      {{ k = Constant <value = float {{2}}> ()  b = Mul (t, k)  c = Add (b, w)
                         a = Sub (c, outer) }},
                   else_branch = g2 () => (float[4] d) {{ d = Identity (t) }}> }}"""


@pytest.mark.parametrize(("on", "ops"), [(1, ["Abs", "Mul", "Add", "Sub"]), (0, ["Abs", "Identity"])])
def test_an_if_with_a_constant_condition_is_its_branch(on: int, ops: list[str]) -> None:
    graph, _ = rewrite(FoldConstants(), IF.format(on=on))
    assert graph.ops() == ops


NESTED = """
    m (float[4] x, bool fed) => (float[4] y) <bool on = {{1}}>
    {{ t = Abs (x)
      y = If (on) <
        then_branch = g1 () => (float[4] a) <float[4] w = {{1, 2, 3, 4}}, bool off = {{0}}> {{
          u = Mul (t, w)  k = Constant <value_float = 2.0> ()
          a = If ({inner}) <then_branch = g3 () => (float[4] e) {{ v = Neg (u)  e = Mul (v, k) }},
                            else_branch = g4 () => (float[4] f) {{ f = Add (u, w) }}> }},
        else_branch = g2 () => (float[4] d) {{ u = Exp (t)  d = Identity (u) }}> }}"""


def test_control_flow_in_a_branch_reads_what_the_branch_defined() -> None:
    graph, _ = rewrite(FoldConstants(), NESTED.format(inner="fed"))
    assert graph.ops() == ["Abs", "Mul", "If"]


def test_a_constant_condition_within_a_branch() -> None:
    graph, _ = rewrite(FoldConstants(), NESTED.format(inner="off"))
    assert graph.ops() == ["Abs", "Mul", "Add"]


def test_a_loop_in_a_branch() -> None:
    graph, _ = rewrite(
        FoldConstants(),
        """
        m (float[4] x) => (float[4] y) <bool on = {1}>
        { y = If (on) <
            then_branch = g1 () => (float[4] a) <int64 three = {3}, bool yes = {1}> {
              u = Exp (x)
              a = Loop (three, yes, x) <body = g3 (int64 i, bool c, float[4] s) => (bool d, float[4] r) {
                d = Identity (c)  r = Add (s, u) }> },
            else_branch = g2 () => (float[4] d) { d = Identity (x) }> }""",
        rtol=1e-6,
    )
    assert graph.ops() == ["Exp", "Loop"]


def test_a_branch_with_constants_that_are_no_numbers_stays() -> None:
    graph = LpGraph.from_proto(
        parse_model("""
        m (float[4] x) => (string[1] y) <bool on = {1}>
        { y = If (on) <
            then_branch = g1 () => (string[1] a) { a = Constant <value_strings = ["no"]> () },
            else_branch = g2 () => (string[1] d) { d = Constant <value_strings = ["yes"]> () }> }""")
    )
    assert inline_if(graph, graph.nodes("If")[0]) == "its branch has a constant that is no tensor of numbers"


def test_a_branch_with_unusual_initialisers_stays() -> None:
    model = parse_model(IF.format(on=1))
    body = model.graph.node[1].attribute[0].g
    body.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    graph = LpGraph.from_proto(model)
    assert inline_if(graph, graph.nodes("If")[0]) == "its branch keeps constants in another file"
    model = parse_model(IF.format(on=1))
    model.graph.node[1].attribute[0].g.sparse_initializer.add().values.name = "w2"
    graph = LpGraph.from_proto(model)
    assert inline_if(graph, graph.nodes("If")[0]) == "its branch has sparse constants"


def test_an_if_that_is_decided_at_run_time_is_passed_over() -> None:
    assert (
        left_alone(
            FoldConstants(),
            """
        m (float[4] x, bool c) => (float[4] y)
        { y = If (c) <then_branch = g1 () => (float[4] a) { a = Neg (x) },
                      else_branch = g2 () => (float[4] b) { b = Exp (x) }> }""",
        )
        == []
    )
