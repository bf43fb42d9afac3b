"""Rule of `canonicalize`: operands of Range are scalars, also where the exporter left a vector of one."""

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.constant_inputs import output_at
from lpcompile.records import PassReport


def scalar_range(graph: LpGraph, report: PassReport) -> None:
    """Reshape operands of shape (1,): ONNX Runtime runs them by chance, and refuses them with known shapes.

    Folding conditions is what makes such shapes known. An operand whose shape nobody knows may be one.
    """
    for node in graph.nodes("Range"):
        for i, operand in enumerate(node.inputs):
            if operand is None or operand.shape == ():
                continue
            scalar = graph.add_node(
                "Reshape", [operand, graph.constant("scalar_shape", np.zeros(0, np.int64))], before=node
            )
            if operand.dtype is not None:
                graph.set_type(output_at(scalar), operand.dtype, ())
            node.set_input(i, output_at(scalar))
            report.change(node, "operand reshaped to a scalar", before=operand.name)
