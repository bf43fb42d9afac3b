"""Rules of `canonicalize`: pools in the words that every runtime and every shape inference reads alike."""

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.pool_shapes import counts_and_pads
from lpcompile.passes.constant_inputs import dim_of, rank_of
from lpcompile.records import PassReport


def plain_dilations(graph: LpGraph, report: PassReport) -> None:
    """Leave out dilations of 1 of an AveragePool: ONNX Runtime's integer kernel has no such attribute."""
    for node in graph.nodes("AveragePool"):
        dilations = node.attrs.get("dilations")
        if dilations is not None and all(d == 1 for d in dilations):
            node.attrs.pop("dilations")
            report.change(node, "dilations of 1 left out")


def explicit_ceil(graph: LpGraph, report: PassReport) -> None:
    """Write ceil_mode as pads where a last window would begin in the padding: inference and runtimes differ there."""
    for node in graph.nodes("MaxPool"):
        rank = rank_of(node.inputs[0])
        if not node.attrs.get("ceil_mode", 0) or rank is None:
            continue
        if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        size = [dim_of(node.inputs[0], axis) for axis in range(2, rank)]
        known = [n for n in size if n is not None]
        if len(known) != len(size):
            continue
        counts, pads, dropped = counts_and_pads(node.attrs, known)
        kernel = node.attrs["kernel_shape"]
        if dropped and all(p < kernel[i % len(kernel)] for i, p in enumerate(pads)):
            node.attrs.pop("ceil_mode")
            node.set_attr("pads", pads)
            report.change(node, "ceil_mode written as pads", after=f"{pads}, {counts} positions")
