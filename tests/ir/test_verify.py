"""Each kind of damage that a pass could do is found; the damage is done behind the verbs' back."""

from collections.abc import Callable

import numpy as np
import pytest

from lpcompile.errors import PassError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.verify import verify_graph
from tests.support import conv_bn_model, parse_model


def graph() -> LpGraph:
    return LpGraph.from_proto(
        parse_model("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Neg (a)  y = Exp (b) }")
    )


def cycle(g: LpGraph) -> None:
    g.nodes()[0].set_input(0, g.value("b"))


def dangling(g: LpGraph) -> None:
    g.remove(g.nodes("Relu")[0])


def lost_output(g: LpGraph) -> None:
    g.remove(g.nodes("Exp")[0])


def renamed(g: LpGraph) -> None:
    g.value("a")._raw.name = "other"


def filled_twice(g: LpGraph) -> None:
    g.nodes("Exp")[0]._raw.outputs.append(g.value("a")._raw)


def filled_input(g: LpGraph) -> None:
    g.nodes("Exp")[0]._raw.outputs.append(g.value("x")._raw)


def foreign(g: LpGraph) -> None:
    g.nodes("Exp")[0]._raw.inputs[0] = graph().value("a")._raw


def one_sided(g: LpGraph) -> None:
    g.value("b")._raw.outputs.clear()
    list.append(g.nodes("Exp")[0]._raw.inputs, g.value("b")._raw)


def no_version(g: LpGraph) -> None:
    g.add_node("Thing", [g.value("a")], domain="own")
    del g.opset_imports["own"]


def bad_attribute(g: LpGraph) -> None:
    g.nodes("Neg")[0].attrs["axis"] = 1


def unknown_op(g: LpGraph) -> None:
    last = g.nodes("Exp")[0]
    last.set_input(0, g.add_node("Nonsense", [g.value("b")]).outputs[0])


@pytest.mark.parametrize(
    ("damage", "message", "where"),
    [
        (cycle, "cycle", "Relu_0"),
        (dangling, "input 'a' is filled by nothing", "Neg_1"),
        (lost_output, "graph output 'y' is produced by nothing", None),
        (renamed, "tensor 'other' is entered as 'a'", None),
        (filled_twice, "filled by several nodes", "Relu_0, Exp_2"),
        (filled_input, "has a value already", "Exp_2"),
        (foreign, "is no tensor of this graph", "Exp_2"),
        (one_sided, "does not know its reader", "Exp_2"),
        (no_version, "domain 'own' has no version", "Thing"),
        (bad_attribute, "axis", "Neg_1"),
        (unknown_op, "Nonsense", "Nonsense"),
    ],
)
def test_damage_is_found(damage: Callable[[LpGraph], None], message: str, where: str | None) -> None:
    damaged = graph()
    verify_graph(damaged)
    damage(damaged)
    with pytest.raises(PassError, match=message) as caught:
        verify_graph(damaged)
    assert caught.value.where == where


def test_an_edited_graph_passes() -> None:
    good = LpGraph.from_proto(conv_bn_model())
    good.set_weights(good.nodes("Conv")[0], np.ones((8, 8, 3, 3)), None)
    good.bypass(good.nodes("BatchNormalization")[0])
    verify_graph(good)
