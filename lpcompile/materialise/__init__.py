"""The one place that turns decisions into nodes: materialise(graph, form). [architecture 4]."""

from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.materialise.dyadic import materialise_dyadic
from lpcompile.materialise.functions import materialise_functions
from lpcompile.materialise.qdq import materialise_qdq


def materialise(graph: LpGraph, form: str = "functions") -> tuple[LpGraph, dict[str, int]]:
    """The graph with its plan carried out; the graph itself stays float.

    Args:
        graph: float graph and plan.
        form: "functions", one `lpcompile` call a layer; "qdq", float operators between Q and DQ pairs; "fp8-qdq", the
            same with float8 tensors where layers compute in FP8; or "dyadic", the integer reference graph
            (`materialise_dyadic` gives its integers too).

    Returns:
        The new graph, and for each quantised layer the bytes of the initialisers that hold its weights and scales.
    """
    if form == "dyadic":
        return materialise_dyadic(graph)[:2]
    if form in ("qdq", "fp8-qdq"):
        result, weight_bytes = materialise_qdq(graph, float8=form == "fp8-qdq")
    else:
        result, weight_bytes = materialise_functions(graph)
    result.facts = {*graph.facts, Fact.MATERIALISED}
    return result, weight_bytes
