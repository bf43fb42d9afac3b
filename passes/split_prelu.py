"""PRelu in operators that run on codes: LeakyRelu where it has one slope, else max(x, 0) + slope * min(x, 0).

Of the two terms one is zero, so that on codes only the slope rounds: it is a scale by channel like that of a norm, and
`quantnorm` holds it in few bits or as a shift. Dynamic PRelu, `a(x - b) - c` on either side of b, comes as a PRelu
between two shifts by channel, which are norms already. [neseem2024, notes sec. 2.6; zhang2022]
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.store import Shape
from lpcompile.ir.value import Value
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

NOT_CONSTANT = "its slopes are not constant"
NOT_BY_CHANNEL = "its slopes are not one number a channel"
CAPTURED = "a control-flow body reads its result"


@dataclass(frozen=True, slots=True)
class SplitPrelu(Pass):
    """PRelu as LeakyRelu, or as clamps, a product and a sum."""

    name: ClassVar[str] = "split-prelu"
    summary: ClassVar[str] = (
        "PRelu as LeakyRelu, or as clamps, a scale by channel and a sum, which run on integers"
    )
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Rewrite every PRelu whose slopes are constant."""
        report = PassReport(self.name)
        for node in graph.nodes("PRelu"):
            reason, what = _rewritten(graph, node)
            if reason:
                report.skip(node, reason)
            else:
                report.change(node, what)
        return report


def _rewritten(graph: LpGraph, node: Node) -> tuple[str, str]:
    """Why a node stays, or else what became of it."""
    x, slope, y = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None
    assert slope is not None
    assert y is not None
    if not slope.is_constant or slope.dtype != np.dtype(np.float32):
        return NOT_CONSTANT, ""
    if y.used_in_subgraph:
        return CAPTURED, ""
    values = slope.values
    if values.size > 1 and not _by_channel(x, values.shape):
        return NOT_BY_CHANNEL, ""
    name, shape, dtype, metadata = node.name, x.shape, x.dtype or np.dtype(np.float32), dict(node.metadata)
    graph.remove(node)
    if values.size == 1:
        alpha = {"alpha": float(values.reshape(()))}
        made = graph.add_node("LeakyRelu", [x], [y.name], name=name, attrs=alpha, metadata=metadata)
        _typed(graph, made, dtype, shape)
        return "", "LeakyRelu"
    zero = graph.constant(graph.fresh(f"{name}/zero"), np.array(0, np.float32))

    def made_of(op: str, role: str, *inputs: Value | None) -> Value:
        made = graph.add_node(op, list(inputs), [graph.fresh(f"{y.name}/{role}")], name=f"{name}/{role}")
        return _typed(graph, made, dtype, shape)

    above, below = made_of("Relu", "above", x), made_of("Clip", "below", x, None, zero)
    scaled = made_of("Mul", "scaled", below, slope)
    made = graph.add_node("Add", [above, scaled], [y.name], name=name, metadata=metadata)
    _typed(graph, made, dtype, shape)
    return "", "max(x, 0) + slope * min(x, 0)"


def _by_channel(x: Value, shape: tuple[int, ...]) -> bool:
    """Whether slopes of this shape vary along the second axis of `x` and no other."""
    if x.shape is None or len(shape) > len(x.shape):
        return False
    full = (1,) * (len(x.shape) - len(shape)) + shape
    return all(d == 1 for i, d in enumerate(full) if i != 1) and full[1] == x.shape[1]


def _typed(graph: LpGraph, node: Node, dtype: np.dtype[Any], shape: Shape | None) -> Value:
    value = node.outputs[0]
    assert value is not None
    graph.set_type(value, dtype, shape)
    return value
