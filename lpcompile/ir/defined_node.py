"""What definitions read of a node: sizes and attributes, none where a model says nothing that makes sense."""

import math

from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


def size_of(value: Value | None, axis: int) -> int | None:
    """Size of an axis; None where there is no such axis, or it is not known."""
    shape = None if value is None else value.dims if value.is_constant else value.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    found = shape[axis]
    return found if isinstance(found, int) else None


def positive(node: Node, name: str) -> int:
    """A number of things that an attribute tells; 0 where it tells none."""
    found = node.attrs.get(name, 0)
    return max(found, 0) if isinstance(found, int) else 0


def real(node: Node, name: str, default: float) -> float | None:
    """A number that an attribute tells, or its default; None where it is something else."""
    found = node.attrs.get(name, default)
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None
