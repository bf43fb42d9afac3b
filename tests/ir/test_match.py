from lpcompile.ir import match
from lpcompile.ir.graph import LpGraph
from tests.support import conv_bn_model, parse_model

GRAPH = """
    g (float[2] x, bool c) => (float[2] y, float[2] z, float[2] o) <float[2] w = {1, 2}> {
        a = Relu (x)
        b = Neg (a)
        y = Add (b, w)
        z = Exp (x)
        d = Abs (x)
        e = Neg (d)
        f = Exp (d)
        h = Add (e, f)
        o = Log (h)
    }"""


def test_every_reason_for_no_producer() -> None:
    graph = LpGraph.from_proto(parse_model(GRAPH))
    value = graph.value
    assert match.sole_producer(value("a"), "Relu").nodes == (graph.nodes("Relu")[0],)
    reasons = {
        name: match.sole_producer(value(name), "Relu", "Abs", "Exp").reason
        for name in ("w", "x", "b", "z", "d")
    }
    assert reasons == {
        "w": "'w' is a constant, not the result of a Relu or Abs or Exp",
        "x": "'x' is a graph input, not the result of a Relu or Abs or Exp",
        "b": "'b' comes from Neg, not from Relu or Abs or Exp",
        "z": "'z' is also a graph output",
        "d": "2 nodes read 'd'",
    }
    assert match.sole_producer(None).reason == "the input is omitted"


def test_every_reason_for_no_consumer() -> None:
    graph = LpGraph.from_proto(parse_model(GRAPH))
    value = graph.value
    assert match.sole_consumer(value("a"), "Neg")
    assert match.sole_consumer(value("a"), "Relu").reason == "'a' goes to Neg, not to Relu"
    assert match.sole_consumer(value("d")).reason == "2 nodes read 'd'"
    assert match.sole_consumer(value("z")).reason == "'z' is also a graph output"
    assert match.sole_consumer(None).reason == "the output is not wanted"


def test_chains() -> None:
    graph = LpGraph.from_proto(parse_model(GRAPH))
    relu = graph.nodes("Relu")[0]
    found = match.chain(relu, "Neg", ("Sub", "Add"))
    assert [n.op for n in found.nodes] == ["Relu", "Neg", "Add"]
    assert match.chain(relu, "Neg", "Sub").reason == "'b' goes to Add, not to Sub"
    assert not match.chain(relu, "Neg", "Sub")


def test_all_constant() -> None:
    graph = LpGraph.from_proto(conv_bn_model())
    conv = graph.nodes("Conv")[0]
    assert match.all_constant([*conv.inputs[1:], None])
    assert match.all_constant(conv.inputs).reason == "'x' is no constant"
