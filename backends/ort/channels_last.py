"""Codes in the layout of ONNX Runtime's integer convolutions where floats become integers.

ONNX Runtime puts a Transpose before and after every QLinearConv, whose kernel is channels-last, and cancels those
that meet. An addition lets them pass only where more of its operands come transposed than not. Where a trunk of
residual blocks starts with codes made from floats, one operand of the first addition comes transposed and the other
does not: a tie, so two Transposes stay at this addition and, by the same tie, at every one after it (16 in ResNet-20,
a tenth of its time). So the codes are transposed here, in a spelling that ONNX Runtime takes as it is:

    (N, C, H, W) -> Transpose (N, H, W, C) -> Flatten (NHW, C) -> Reshape (N, H, W, C) -> Transpose (N, C, H, W)

The last Transpose cancels with those of the readers; Flatten and Reshape move nothing, but without them the two would
cancel before the convolutions are looked at. (Two Reshapes are seen through where the batch is known, Flatten is not.)
"""

import numpy as np

from lpcompile.ir.function import DOMAIN
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value

CONVOLUTIONS = "QuantConv_"
ARITHMETIC = ("QuantAdd", "QuantMul")


def channels_last(graph: LpGraph) -> list[str]:
    """Transpose in place what `QuantizeLinear` gives to a convolution and to an operator of two operands.

    Returns:
        Names of the QuantizeLinear nodes whose codes were transposed. A second call finds none.
    """
    changed = []
    for node in graph.nodes("QuantizeLinear"):
        codes = node.outputs[0]
        if codes is None or (plane := _plane(codes)) is None:
            continue
        ops = [n.op for n in codes.consumers if n.domain == DOMAIN]
        if any(op.startswith(CONVOLUTIONS) for op in ops) and any(op.startswith(ARITHMETIC) for op in ops):
            _transpose(graph, codes, plane)
            changed.append(node.name)
    return changed


def _plane(codes: Value) -> tuple[int, int, int] | None:
    """Channels, height and width where they are known; the batch may be symbolic."""
    shape = codes.shape
    if shape is None or len(shape) != 4:
        return None
    c, h, w = shape[1:]
    return (c, h, w) if isinstance(c, int) and isinstance(h, int) and isinstance(w, int) else None


def _transpose(graph: LpGraph, codes: Value, plane: tuple[int, int, int]) -> None:
    c, h, w = plane
    n = (codes.shape or (None,))[0]
    name = "channels_last"
    readers = {r.name for r in codes.consumers if r.domain == DOMAIN}
    image = graph.constant(f"{name}/shape", np.array([-1, h, w, c], np.int64))
    x = codes
    for op, inputs, attrs, shape in (
        ("Transpose", [], {"perm": [0, 2, 3, 1]}, (n, h, w, c)),
        ("Flatten", [], {"axis": 3}, (n * h * w if isinstance(n, int) else None, c)),
        ("Reshape", [image], {}, (n, h, w, c)),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}, (n, c, h, w)),
    ):
        made = graph.add_node(op, [x, *inputs], [graph.fresh(name)], name=graph.fresh(name), attrs=attrs)
        out = made.outputs[0]
        assert out is not None
        graph.set_type(out, np.dtype(np.uint8), shape)
        x = out
    graph.replace_uses(codes, x, only=lambda r: r.name in readers)
