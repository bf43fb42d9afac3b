"""Sizes of pools with `ceil_mode`, as runtimes compute them.

ONNX's own inference counts, before opset 22, a last window that begins in the padding at the end; runtimes drop it.
"""

from collections.abc import Mapping
from typing import Any

from onnx import GraphProto, NodeProto, ValueInfoProto, helper

POOLS = ("AveragePool", "LpPool", "MaxPool")


def mend_first(graph: GraphProto, infos: Mapping[str, ValueInfoProto]) -> bool:
    """Write the first pool whose inferred size is wrong without `ceil_mode`, so that inference gets it right.

    Args:
        graph: a copy that serves inference alone.
        infos: what was inferred on it.

    Returns:
        Whether there was one; what was inferred behind it is wrong too.
    """
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type not in POOLS or node.domain or not given.get("ceil_mode"):
            continue
        size, found = (_spatial(infos.get(t)) for t in (node.input[0], node.output[0]))
        if size is None or found is None or given.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        counts, pads, _ = counts_and_pads(given, size)
        if counts != found:
            _write(node, pads)
            return True
    return False


def _spatial(info: ValueInfoProto | None) -> list[int] | None:
    """Sizes of the spatial axes; None where one is not known."""
    if info is None or not info.type.tensor_type.HasField("shape"):
        return None
    dims = info.type.tensor_type.shape.dim[2:]
    return [d.dim_value for d in dims] if all(d.HasField("dim_value") for d in dims) else None


def counts_and_pads(given: Mapping[str, Any], size: list[int]) -> tuple[list[int], list[int], bool]:
    """Output sizes of a pool with `ceil_mode`, the pads that give them without, and whether a window was left out."""
    rank = len(size)
    ones = [1] * rank
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    pads = list(given.get("pads", [0] * 2 * rank))
    counts, dropped = [], False
    for i, (n, k, s, d) in enumerate(zip(size, given["kernel_shape"], strides, dilations, strict=True)):
        reach = d * (k - 1) + 1
        count = -(-(n + pads[i] + pads[rank + i] - reach) // s) + 1
        if (count - 1) * s >= n + pads[i]:
            count, dropped = count - 1, True
        counts.append(count)
        pads[rank + i] = max(0, (count - 1) * s + reach - n - pads[i])
    return counts, pads, dropped


def _write(node: NodeProto, pads: list[int]) -> None:
    kept = [a for a in node.attribute if a.name not in ("ceil_mode", "pads")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
