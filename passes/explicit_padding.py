"""Rules of `canonicalize`: say padding and kernel shape as numbers, and let the layer do the padding.

SAME_UPPER and SAME_LOWER ask for ceil(in / stride) outputs, so (ceil(in / stride) - 1) * stride + k - in
zeros in total with k = (kernel - 1) * dilation + 1; the odd one goes to the end (UPPER) or the start (LOWER).
With stride 1 that is k - 1 whatever the input size.  [ONNX operators, Conv]
"""

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import dim_of, input_at, ints_of, is_settled, rank_of, scalar_of
from lpcompile.records import PassReport

_LAYERS = ("Conv", "ConvTranspose")
_POOLS = ("AveragePool", "MaxPool", "LpPool")


def explicit_kernel_shape(graph: LpGraph, report: PassReport) -> None:
    """Write kernel_shape on convolutions that leave it to their weight."""
    for node in graph.nodes(*_LAYERS):
        weight = node.inputs[1]
        rank = rank_of(weight)
        if "kernel_shape" in node.attrs or rank is None:
            continue
        kernel = [dim_of(weight, axis) for axis in range(2, rank)]
        if None not in kernel:
            node.set_attr("kernel_shape", kernel)
            report.change(node, "kernel_shape written out", after=str(kernel))


def explicit_pads(graph: LpGraph, report: PassReport) -> None:
    """Replace auto_pad by the pads it stands for, where these are known."""
    for node in graph.nodes(*_LAYERS, *_POOLS):
        mode = node.attrs.get("auto_pad", "NOTSET")
        kernel = node.attrs.get("kernel_shape")
        if mode == "NOTSET":
            continue
        if kernel is None:
            report.skip(node, "auto_pad with a kernel whose shape is not known")
            continue
        pads = _pads_of(node, mode, kernel)
        if isinstance(pads, str):
            report.skip(node, pads)
            continue
        node.attrs.pop("auto_pad")
        node.set_attr("pads", pads)
        report.change(node, "auto_pad written as pads", before=mode, after=str(pads))


def _pads_of(node: Node, mode: str, kernel: list[int]) -> list[int] | str:
    """Pads in ONNX order (all starts, then all ends), or why they are not known."""
    axes = range(len(kernel))
    if node.op == "ConvTranspose" and "output_shape" in node.attrs:
        return "output_shape decides the pads"
    if mode == "VALID":
        return [0] * (2 * len(kernel))
    if node.attrs.get("ceil_mode", 0):
        return "auto_pad together with ceil_mode"
    strides = node.attrs.get("strides", [1] * len(kernel))
    dilations = node.attrs.get("dilations", [1] * len(kernel))
    if node.op in _POOLS and any(d != 1 for d in dilations):
        return "auto_pad of a dilated pool"
    extents = [(kernel[i] - 1) * dilations[i] + 1 for i in axes]
    totals = []
    for i in axes:
        if node.op == "ConvTranspose":
            extra = node.attrs.get("output_padding", [0] * len(kernel))[i]
            totals.append(extents[i] - strides[i] + extra)
        elif strides[i] == 1:
            totals.append(extents[i] - 1)
        elif (size := dim_of(node.inputs[0], 2 + i)) is None:
            return "auto_pad needs static spatial dimensions"
        else:
            totals.append((-(-size // strides[i]) - 1) * strides[i] + extents[i] - size)
    # Runtimes crop where less than nothing is to be padded, which up to two rows no Conv output shows.
    if any(total < (-2 if node.op == "Conv" else 0) for total in totals):
        return "auto_pad of a kernel smaller than its stride"
    totals = [max(total, 0) for total in totals]
    if node.op == "ConvTranspose" and any(total % 2 for total in totals):
        return "auto_pad of ConvTranspose that cannot be split evenly"
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*small, *large] if mode == "SAME_UPPER" else [*large, *small]


def merge_pad(graph: LpGraph, report: PassReport) -> None:
    """Let a Conv or AveragePool do the zero padding of a Pad before it."""
    for node in graph.nodes("Conv", "AveragePool"):
        source = node.inputs[0]
        pad = None if source is None else source.producer
        if pad is None or pad.op != "Pad" or pad.domain:
            continue
        merged = _merged_pads(pad, node)
        if graph.sole_producer(source, "Pad") is None:
            merged = "the padded tensor is used elsewhere"
        if isinstance(merged, str):
            report.skip(pad, merged)
            continue
        node.set_attr("pads", merged)
        if node.op == "AveragePool" and not node.attrs.get("count_include_pad", 0):
            node.set_attr("count_include_pad", 1)
        node.set_input(0, pad.inputs[0])
        graph.remove(pad)
        report.change(pad, f"merged into {node.name}", after=str(merged))


def _merged_pads(pad: Node, node: Node) -> list[int] | str:
    """Pads of the node once it pads for the Pad as well, or why it cannot."""
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET" or "kernel_shape" not in node.attrs:
        return "the layer after it has auto_pad or an unknown kernel"
    kernel = node.attrs["kernel_shape"]
    own = node.attrs.get("pads", [0] * (2 * len(kernel)))
    added = _spatial_zeros(pad, 2 + len(kernel))
    if isinstance(added, str):
        return added
    merged = [a + b for a, b in zip(own, added, strict=True)]
    if node.op == "AveragePool":
        if any(own) and not node.attrs.get("count_include_pad", 0):
            return "the pool after it does not count its own padding"
        if node.attrs.get("ceil_mode", 0):
            return "the pool after it rounds its size up"
        if any(p >= k for p, k in zip(merged, [*kernel, *kernel], strict=True)):
            return "wider than the window of the pool after it"
    return merged


def _spatial_zeros(pad: Node, rank: int) -> list[int] | str:
    """What a Pad adds to the spatial axes, starts then ends, or why it is not plain zero padding."""
    if pad.attrs.get("mode", "constant") != "constant":
        return "not constant padding"
    pads = ints_of(pad, "pads", 1) if is_settled(pad, 1, 2, 3) else None
    if pads is None:
        return "its pads are not constant"
    if not _is_zero(input_at(pad, 2), pad.attrs.get("value", 0.0)):
        return "it does not pad with zeros"
    axes = ints_of(pad, "axes", 3)
    axes = list(range(rank)) if axes is None else [a % rank for a in axes]
    if len(pads) != 2 * len(axes):
        return "its pads do not fit the rank"
    starts = dict(zip(axes, pads[: len(axes)], strict=True))
    ends = dict(zip(axes, pads[len(axes) :], strict=True))
    if any(p < 0 for p in pads):
        return "it crops"
    if any(starts.get(axis, 0) or ends.get(axis, 0) for axis in (0, 1)):
        return "it pads batch or channels"
    return [starts.get(a, 0) for a in range(2, rank)] + [ends.get(a, 0) for a in range(2, rank)]


def _is_zero(value: Value | None, attribute: float) -> bool:
    return attribute == 0.0 if value is None else scalar_of(value) == 0.0
