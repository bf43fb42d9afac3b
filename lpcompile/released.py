"""Float weights are let go once their layers have codes: what is emitted needs the codes and the shape.

A layer that falls back to float reads them again. Then the float graph is made once more from the source: that is
rare, and the same passes give the same numbers.
"""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.plan import Kernel, QuantPlan


def release_rounded(graph: LpGraph, remake: Callable[[], LpGraph]) -> list[str]:
    """Let go of the weights that only rounded layers read.

    Args:
        graph: float graph and its complete plan.
        remake: makes the float graph again, with the same names.

    Returns:
        Names of the constants.
    """
    made: list[LpGraph] = []

    def restore(name: str) -> NDArray[Any]:
        if not made:
            made.append(remake())
        return made[0].value(name).values

    found = [v for v in graph.constants() if _only_rounded(graph.plan, v)]
    for value in found:
        graph.release(value, lambda name=value.name: restore(name))  # type: ignore[misc]
    return [v.name for v in found]


def _only_rounded(plan: QuantPlan, value: Value) -> bool:
    if value.is_output or value.used_in_subgraph:
        return False
    layers = [(node, plan.layers.get(node.name)) for node in value.consumers]
    return bool(layers) and all(
        layer is not None
        and layer.kernel is not Kernel.FLOAT
        and layer.tensor is not None
        and [i for i, v in enumerate(node.inputs) if v == value] == [1]
        for node, layer in layers
    )
