"""Rule of `canonicalize`: the mean over height and width is GlobalAveragePool, one kernel to a backend."""

from lpcompile.ir.graph import LpGraph
from lpcompile.passes.constant_inputs import (
    ints_of,
    is_float,
    is_settled,
    is_single_or_half,
    output_at,
    rank_of,
)
from lpcompile.passes.node_replacement import put_instead
from lpcompile.records import PassReport


def mean_to_pool(graph: LpGraph, report: PassReport) -> None:
    """Turn ReduceMean over axes 2 and 3 of (N, C, H, W) into GlobalAveragePool (and Flatten)."""
    for node in graph.nodes("ReduceMean"):
        source = node.inputs[0]
        axes = ints_of(node, "axes", 1) if is_settled(node, 1) else None
        if source is None or axes is None or len(axes) != 2:
            continue
        rank = rank_of(source)
        if rank is None:
            report.skip(node, "the rank of its input is not known")
            continue
        if rank != 4 or sorted(a % rank for a in axes) != [2, 3] or not is_float(source):
            continue
        if not is_single_or_half(source):
            report.skip(node, "GlobalAveragePool takes float16 and float32 only")
            continue
        if node.attrs.get("keepdims", 1):
            put_instead(graph, node, "GlobalAveragePool", [source])
            report.change(node, "ReduceMean spelled as GlobalAveragePool")
            continue
        pool = graph.add_node("GlobalAveragePool", [source], before=node)
        if source.dtype is not None and source.shape is not None:
            graph.set_type(output_at(pool), source.dtype, (*source.shape[:2], 1, 1))
        put_instead(graph, node, "Flatten", [output_at(pool)], {"axis": 1})
        report.change(node, "ReduceMean spelled as GlobalAveragePool and Flatten")
