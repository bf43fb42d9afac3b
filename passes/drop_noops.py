"""Rule of `canonicalize`: nodes that hand on their input unchanged, and pairs that merge into one."""

from collections.abc import Callable

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import (
    dim_of,
    input_at,
    ints_of,
    is_settled,
    output_at,
    rank_of,
)
from lpcompile.passes.node_replacement import bypass_obstacle, is_named_outside
from lpcompile.records import PassReport


def drop_noops(graph: LpGraph, report: PassReport) -> None:
    """Remove every node that provably returns its first input."""
    for node in graph.nodes(*_CHECKS):
        if node.inputs[:1] in ([], [None]):
            continue
        finding = _CHECKS[node.op](graph, node)
        if finding is False:
            continue
        obstacle = finding if isinstance(finding, str) else bypass_obstacle(node)
        if obstacle is not None:
            report.skip(node, obstacle)
            continue
        graph.bypass(node)
        report.change(node, f"{node.op} that changes nothing removed")


def merge_data_movement(graph: LpGraph, report: PassReport) -> None:
    """Let the second of two Reshapes or Transposes do the work of both."""
    for node in graph.nodes("Reshape", "Transpose"):
        first = graph.sole_producer(node.inputs[0], node.op)
        if first is None:
            continue
        if node.op == "Transpose":
            inner, outer = _perm(first), _perm(node)
            if inner is None or outer is None:
                continue
            node.set_attr("perm", [inner[i] for i in outer])
        elif not _ignores_input_shape(node):
            continue
        node.set_input(0, first.inputs[0])
        graph.remove(first)
        report.change(node, f"took over the {node.op} before it", before=first.name)


def _ignores_input_shape(reshape: Node) -> bool:
    target = ints_of(reshape, "shape", 1)
    return target is not None and (0 not in target or bool(reshape.attrs.get("allowzero", 0)))


def _perm(transpose: Node) -> list[int] | None:
    if "perm" in transpose.attrs:
        return list(transpose.attrs["perm"])
    rank = rank_of(transpose.inputs[0])
    return None if rank is None else list(range(rank))[::-1]


Finding = bool | str  # a text: it may be a no-op, but this stands against removing it


def _always(_graph: LpGraph, _node: Node) -> Finding:
    return True


def _single_input(_graph: LpGraph, node: Node) -> Finding:
    return len(node.inputs) == 1


def _dropout(graph: LpGraph, node: Node) -> Finding:
    if any(v is not None and (v.consumers or is_named_outside(v)) for v in node.outputs[1:]):
        return "its mask is used"
    mode = input_at(node, 2)
    if graph.opset < 7:
        return bool(node.attrs.get("is_test", 0)) or "it trains, as is_test=0 says"
    if mode is None:
        return True
    if not mode.is_constant or bool(mode.values.reshape(-1)[0]):
        return "training mode is not known to be off"
    return True


def _cast(_graph: LpGraph, node: Node) -> Finding:
    source, result = node.inputs[0], output_at(node)
    return source is not None and source.dtype is not None and source.dtype == result.dtype


def _transpose(_graph: LpGraph, node: Node) -> Finding:
    perm = _perm(node)
    return perm is not None and perm == sorted(perm)


def _reshape(_graph: LpGraph, node: Node) -> Finding:
    target, source = ints_of(node, "shape", 1), node.inputs[0]
    if target is None or rank_of(source) != len(target):
        return False
    copies = 0 if not node.attrs.get("allowzero", 0) else None
    differs = [i for i, d in enumerate(target) if d != copies and d != dim_of(source, i)]
    # One dimension left to -1 must then be what it was, as the number of elements is.
    return not differs or (len(differs) == 1 and target[differs[0]] == -1)


def _flatten(_graph: LpGraph, node: Node) -> Finding:
    return rank_of(node.inputs[0]) == 2 and node.attrs.get("axis", 1) in (1, -1)


def _pad(graph: LpGraph, node: Node) -> Finding:
    if not is_settled(node, 1):
        return False
    pads = ints_of(node, "pads", 1)
    return pads is not None and not any(pads)


def _slice(_graph: LpGraph, node: Node) -> Finding:
    source = node.inputs[0]
    if not is_settled(node, 1, 2, 3, 4):
        return False
    starts, ends, steps = ints_of(node, "starts", 1), ints_of(node, "ends", 2), ints_of(node, "steps", 4)
    if starts is None or ends is None or any(starts) or any(step != 1 for step in steps or []):
        return False
    axes = ints_of(node, "axes", 3) or list(range(len(starts)))
    return all(_reaches_end(source, axis, end) for axis, end in zip(axes, ends, strict=True))


def _reaches_end(source: Value | None, axis: int, end: int) -> bool:
    dim = dim_of(source, axis)
    return end >= np.iinfo(np.int32).max or (dim is not None and end >= dim)


def _tile(_graph: LpGraph, node: Node) -> Finding:
    repeats = ints_of(node, "repeats", 1)
    return repeats is not None and all(r == 1 for r in repeats)


def _expand(_graph: LpGraph, node: Node) -> Finding:
    target, source = ints_of(node, "shape", 1), node.inputs[0]
    rank = rank_of(source)
    if target is None or rank is None or len(target) > rank:
        return False
    dims = [dim_of(source, axis) for axis in range(rank - len(target), rank)]
    return all(t in (1, d) for t, d in zip(target, dims, strict=True))


_CHECKS: dict[str, Callable[[LpGraph, Node], Finding]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "Tile": _tile,
    "Expand": _expand,
    "Concat": _single_input,
    "Sum": _single_input,
    "Mean": _single_input,
    "Max": _single_input,
    "Min": _single_input,
}
