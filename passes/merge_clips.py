"""Rules of `canonicalize`: one Clip for a chain of bounds, one node for hard sigmoid and hard swish.

Clip_b(Clip_a(x)) = Clip(x, clip_b(lo_a), clip_b(hi_a)); ReLU6 is Clip(0, 6) however it was spelled.
HardSigmoid(x) = clip(x + 3, 0, 6) / 6 and HardSwish(x) = x * HardSigmoid(x).  [ONNX operators; howard2019]
"""

import math

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import (
    input_at,
    is_float,
    is_single_or_half,
    output_at,
    rank_of,
    scalar_of,
)
from lpcompile.passes.node_replacement import bypass_obstacle, put_instead
from lpcompile.records import PassReport

Bounds = tuple[float, float]
RELU: Bounds = (0.0, math.inf)
NOTHING: Bounds = (-math.inf, math.inf)


def merge_clips(graph: LpGraph, report: PassReport) -> None:
    """Spell every chain of Relu, Clip, Min and Max against constants as one Relu or Clip."""
    for node in graph.nodes("Clip", "Relu", "Min", "Max"):
        own = _bounds(node)
        if own is None:
            if node.op == "Clip":
                report.skip(node, "its bounds are not constant")
            continue
        source, (low, high) = own
        before = node.op
        inner = graph.sole_producer(source, "Clip", "Relu", "Min", "Max")
        chained = None if inner is None else _bounds(inner)
        if inner is not None and chained is not None:
            source = chained[0]
            low, high = (min(max(bound, low), high) for bound in chained[1])
            before = f"{inner.op}, {node.op}"
        elif node.op == "Relu" or (node.op == "Clip" and (low, high) not in (RELU, NOTHING)):
            continue
        if source.dtype is not None and not is_float(source):
            continue
        obstacle = (
            bypass_obstacle(node, source) if (low, high) == NOTHING else _obstacle(graph, source, (low, high))
        )
        if obstacle is not None:
            report.skip(node, obstacle)
            continue
        if (low, high) == NOTHING:
            graph.bypass(node, source)
            report.change(node, f"{before} that bounds nothing removed")
            continue
        new = _put_bounds(graph, node, source, low, high)
        report.change(new, f"{before} spelled as {new.op}", after=f"[{low:g}, {high:g}]")


def _bounds(node: Node) -> tuple[Value, Bounds] | None:
    """The input that is bounded, and its lower and upper bound; None for any other use of the operator."""
    source = node.inputs[0]
    if node.op == "Relu":
        return None if source is None else (source, RELU)
    if node.op == "Clip":
        low, high = (_clip_bound(node, *at) for at in (("min", 1, -math.inf), ("max", 2, math.inf)))
        if source is None or low is None or high is None or low > high:
            return None
        return source, (low, high)
    pair = [v for v in node.inputs if v is not None]
    if len(pair) != 2 or pair[0].is_constant == pair[1].is_constant:
        return None
    bound, source = sorted(pair, key=lambda v: not v.is_constant)
    number, rank = scalar_of(bound), rank_of(source)
    if number is None or math.isnan(number) or rank_of(bound) not in range((rank or 0) + 1):
        return None
    return source, ((number, math.inf) if node.op == "Max" else (-math.inf, number))


def _clip_bound(node: Node, attribute: str, index: int, default: float) -> float | None:
    """A bound as a number, infinite where it bounds no float32; None where it is not constant."""
    given = input_at(node, index)
    number = node.attrs.get(attribute, default) if given is None else scalar_of(given)
    if number is None or math.isnan(number):
        return None
    return math.copysign(math.inf, number) if abs(number) >= np.finfo(np.float32).max else float(number)


def _obstacle(graph: LpGraph, source: Value, bounds: Bounds) -> str | None:
    if not is_float(source):
        return "its element type is not known to be a float"
    if bounds != RELU and graph.opset < 12 and source.dtype != np.float32:
        return "Clip takes float32 only before opset 12"
    return None


def _put_bounds(graph: LpGraph, node: Node, source: Value, low: float, high: float) -> Node:
    if (low, high) == RELU:
        return put_instead(graph, node, "Relu", [source])
    given = {"min": low, "max": high}
    finite = {name: bound for name, bound in given.items() if math.isfinite(bound)}
    if graph.opset < 11:
        return put_instead(graph, node, "Clip", [source], finite)
    stem = output_at(node).name
    bounds = [
        graph.constant(f"{stem}/{name}", np.array(finite[name], source.dtype)) if name in finite else None
        for name in given
    ]
    return put_instead(graph, node, "Clip", [source, *bounds])


def merge_hard_swish(graph: LpGraph, report: PassReport) -> None:
    """Find HardSigmoid and, from opset 14, HardSwish in their parts."""
    for node in graph.nodes("Mul", "Div"):
        found = _hard_swish(graph, node) or _hard_sigmoid(graph, node)
        if found is None:
            continue
        op, source = found
        if op == "HardSwish" and graph.opset < 14:
            report.skip(node, "HardSwish needs opset 14")
        elif not is_single_or_half(source):
            report.skip(node, f"{op} takes float16 and float32 only")
        else:
            attrs = {"alpha": 1 / 6, "beta": 0.5} if op == "HardSigmoid" else {}
            new = put_instead(graph, node, op, [source], attrs)
            report.change(new, f"{op} written in parts put together")


def _hard_sigmoid(graph: LpGraph, node: Node) -> tuple[str, Value] | None:
    """`node` as clip(x + 3, 0, 6) / 6: the operator and x."""
    clip = graph.sole_producer(_divided_by_six(node), "Clip")
    source = None if clip is None else _shifted(graph, clip)
    return None if source is None else ("HardSigmoid", source)


def _hard_swish(graph: LpGraph, node: Node) -> tuple[str, Value] | None:
    """`node` as x * hard_sigmoid(x), the division by six at any place: the operator and x."""
    product = graph.sole_producer(_divided_by_six(node), "Mul")
    if product is not None:
        for gate, other in _orders(product):
            if (clip := graph.sole_producer(gate, "Clip")) and _shifted(graph, clip) == other:
                return "HardSwish", other
    if node.op != "Mul":
        return None
    for gate, other in _orders(node):
        sigmoid = graph.sole_producer(gate, "HardSigmoid")
        if sigmoid is not None and sigmoid.inputs[0] == other and _is_sixth_slope(sigmoid):
            return "HardSwish", other
        clip, scaled = graph.sole_producer(gate, "Clip"), other.producer
        x = None if scaled is None else _divided_by_six(scaled)
        if clip is not None and x is not None and _shifted(graph, clip) == x:
            return "HardSwish", x
    return None


def _orders(node: Node) -> list[tuple[Value, Value]]:
    a, b = node.inputs
    return [] if a is None or b is None else [(a, b), (b, a)]


def _divided_by_six(node: Node) -> Value | None:
    """What `node` divides by six, if it does."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for number, other in _orders(node)[::-1]:
        found = scalar_of(number)
        if found is None or not is_float(other) or (rank_of(number) or 0) > (rank_of(other) or 0):
            continue
        if node.op == "Div":
            return other if number == node.inputs[1] and found == 6.0 else None
        return other if math.isclose(found, 1 / 6, rel_tol=1e-3 if _is_half(number) else 1e-6) else None
    return None


def _shifted(graph: LpGraph, clip: Node) -> Value | None:
    """Return x of clip(x + 3, 0, 6)."""
    bounds = _bounds(clip)
    add = None if bounds is None or bounds[1] != (0.0, 6.0) else graph.sole_producer(bounds[0], "Add")
    if add is None:
        return None
    for number, other in _orders(add):
        if scalar_of(number) == 3.0 and (rank_of(number) or 0) <= (rank_of(other) or 0):
            return other
    return None


def _is_sixth_slope(sigmoid: Node) -> bool:
    alpha, beta = sigmoid.attrs.get("alpha", 0.2), sigmoid.attrs.get("beta", 0.5)
    return math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5


def _is_half(value: Value) -> bool:
    return value.dtype is not None and value.dtype.itemsize == 2
