"""The symbolic first axis: a program serves one sample, so what picks or joins samples is the host's work."""

from collections.abc import Iterable
from fractions import Fraction
from math import prod

from lpcompile.backends.cim.moves import axis_of, constant, pad_widths
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

RESHAPING = ("Reshape", "Flatten")


def batch_moves(node: Node) -> bool:
    """Whether a symbolic axis ends up elsewhere than first."""
    shapes = [v.shape for v in (*node.inputs, *node.outputs) if v is not None and v.shape is not None]
    return any(not isinstance(d, int) for s in shapes for d in s[1:])


def works_along_batch(node: Node) -> bool:
    """Whether a moving node picks or joins along a symbolic first axis: samples are served one by one."""
    x = node.inputs[0] if node.inputs else None
    if node.domain or x is None or not x.shape or isinstance(x.shape[0], int):
        return False
    rank = len(x.shape)
    try:
        if node.op in ("Concat", "Split", "Gather"):
            return axis_of(node, rank) == 0
        if node.op == "Slice":
            return _slices_first_axis(node, rank)
        if node.op == "Pad":
            return pad_widths(node, rank)[0] != (0, 0)
        if node.op in ("Tile", "Expand"):
            wanted = constant(node, 1)
            return wanted is None or (wanted.size >= rank and int(wanted.reshape(-1)[-rank]) != 1)
        if node.op == "Resize":
            return _resizes_first_axis(node, rank)
    except ValueError:
        return False  # another reason is found for it
    return False


def _resizes_first_axis(node: Node, rank: int) -> bool:
    axes = [int(a) % rank for a in node.attrs.get("axes") or range(rank)]
    if 0 not in axes:
        return False
    scales = constant(node, 2)
    return scales is None or not scales.size or float(scales[axes.index(0)]) != 1


def mixed_tensors(nodes: Iterable[Node]) -> frozenset[str]:
    """Tensors whose symbolic first axis is not the batch: what was picked, joined or folded along it, and after.

    An axis that a Reshape folds into the first and another takes out again leaves the batch as it was.
    """
    rows: dict[str, Fraction | None] = {}  # of a sample; None: not known
    for node in nodes:
        entering = {rows.get(v.name, Fraction(1)) for v in node.inputs if v is not None and _is_symbolic(v)}
        found = entering.pop() if len(entering) == 1 else None if entering else Fraction(1)
        if works_along_batch(node):
            found = None
        for value in node.outputs:
            if value is not None and _is_symbolic(value):
                rows[value.name] = found if found is None else found * _folded(node, value)
    return frozenset(name for name, found in rows.items() if found != 1)


def _is_symbolic(value: Value) -> bool:
    return bool(value.shape) and not isinstance((value.shape or (0,))[0], int)


def _folded(node: Node, output: Value) -> Fraction:
    """Rows of an output for each row of what is reshaped."""
    if node.op not in RESHAPING or node.inputs[0] is None:
        return Fraction(1)
    before, after = (
        prod(d for d in (v.shape or ())[1:] if isinstance(d, int)) for v in (node.inputs[0], output)
    )
    return Fraction(before, after) if after else Fraction(1)


def _slices_first_axis(node: Node, rank: int) -> bool:
    starts, axes, steps, ends = (constant(node, i) for i in (1, 3, 4, 2))
    if starts is None or ends is None:
        return True
    for i in range(starts.size):
        axis = (i if axes is None else int(axes.reshape(-1)[i])) % rank
        step = 1 if steps is None else int(steps.reshape(-1)[i])
        whole = int(starts.reshape(-1)[i]) == 0 and int(ends.reshape(-1)[i]) >= 2**31 - 1 and step == 1
        if axis == 0 and not whole:
            return True
    return False
