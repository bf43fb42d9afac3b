"""What of a network stays on the host: conversions at the edges, and nodes that the machine does not do."""

from collections.abc import Mapping

from lpcompile.errors import TargetError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def is_conversion(node: Node) -> bool:
    """Whether a node only turns floats to codes, or sums to floats: what a host does for every machine."""
    if node.op in CONVERSIONS:
        return True
    before = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
    return (
        node.op == "Add" and before is not None and before.op == "DequantizeLinear" and _constant_second(node)
    )


def _constant_second(node: Node) -> bool:
    other = node.inputs[1] if len(node.inputs) > 1 else None
    return other is not None and other.is_constant


def host_nodes(reference: LpGraph, reasons: Mapping[str, str]) -> dict[str, str]:
    """Node -> why the machine does not do it, conversions left out."""
    return {n: r for n, r in reasons.items() if not is_conversion(reference.node(n))}


def require_none(found: Mapping[str, str]) -> None:
    """Refuse nodes on the host (`--strict`).

    Raises:
        TargetError: there are some.
    """
    if found:
        name, reason = next(iter(found.items()))
        more = f", and {len(found) - 1} more nodes" if len(found) > 1 else ""
        raise TargetError(
            f"the machine does not do this node ({reason}){more}",
            where=name,
            hint="leave out --strict to run them on the host",
        )
