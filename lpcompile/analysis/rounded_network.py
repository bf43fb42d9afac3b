"""The float graph with everything rounded as planned: weights, biases, norms and activations."""

from lpcompile.analysis.rounded_activations import with_rounded_activations
from lpcompile.analysis.rounded_weights import as_weight
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.planned_bias import planned_bias
from lpcompile.ir.planned_constants import put_norms, put_recurrent, put_tables
from lpcompile.plan import QuantPlan


def rounded_network(graph: LpGraph, plan: QuantPlan) -> LpGraph:
    """What a plan computes, in floats; recurrent cells read floats.

    Args:
        graph: the float graph; it is not changed.
        plan: of its layers and activations.
    """
    made = with_rounded_activations(graph, plan.activations)
    for name, layer in plan.layers.items():
        if layer.tensor is not None:
            node = graph.node(name)
            bias = None if layer.bias_correction is None else planned_bias(node, layer)
            made.set_weights(made.node(name), as_weight(node, layer.tensor.dequantize()), bias)
    put_norms(made, plan.norms)
    put_tables(made, plan.tables)
    put_recurrent(made, plan.recurrent)
    return made


def rounded_bytes(plan: QuantPlan) -> int:
    """Float weights of a rounded network, which wait for the cycle collector when it is done with (`memory`)."""
    return sum(4 * layer.tensor.codes.size for layer in plan.layers.values() if layer.tensor is not None)
