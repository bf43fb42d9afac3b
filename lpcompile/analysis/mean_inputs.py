"""Means of what a layer's weights multiply, from the best source there is."""

from collections.abc import Mapping

from lpcompile.analysis.histogram import TensorStatistics
from lpcompile.analysis.input_moments import row_means
from lpcompile.formats.arrays import F64
from lpcompile.ir.node import Node
from lpcompile.quant.input_metric import InputMetric
from lpcompile.quant.rows import to_rows


def mean_inputs(
    node: Node, statistics: Mapping[str, TensorStatistics], metrics: Mapping[str, InputMetric]
) -> F64 | None:
    """E[x] for each row of a layer's weights, (C_out, K); None where it is not known.

    A metric knows what a convolution reads near its padding; statistics of channels, how often it reads that.
    """
    metric, weight = metrics.get(node.name), node.inputs[1]
    if metric is None or weight is None:
        return row_means(node, statistics)
    return metric.row_means(len(to_rows(node.op, weight.values)))
