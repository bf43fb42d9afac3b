"""What of a network is said to stay on the host, and what is merely its edge."""

import pytest

from lpcompile.backends.cim.host_reasons import host_nodes, is_conversion, require_none
from lpcompile.errors import TargetError
from lpcompile.ir.graph import LpGraph
from tests.support import parse_model

TEXT = """g (float[2,3] x) => (float[2,3] y, float[2,3] z) <float s = {0.1}, uint8 o = {3}, float[3] b> {
    [q] c = QuantizeLinear (x, s, o)
    [d] d = DequantizeLinear (c, s, o)
    [bias] y = Add (d, b)
    [sum] e = Add (d, x)
    [soft] z = Softmax (e) }"""


def test_conversions_are_no_work() -> None:
    graph = LpGraph.from_proto(parse_model(TEXT))
    assert [n.name for n in graph.nodes() if is_conversion(n)] == ["q", "d", "bias"]
    reasons = {n.name: "why" for n in graph.nodes()}
    assert host_nodes(graph, reasons) == {"sum": "why", "soft": "why"}


def test_strict_refuses_the_first_and_counts_the_rest() -> None:
    require_none({})
    with pytest.raises(TargetError, match=r"\(why\), and 1 more nodes") as caught:
        require_none({"sum": "why", "soft": "other"})
    assert caught.value.where == "sum"
    assert "--strict" in str(caught.value.hint)
