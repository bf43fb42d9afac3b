"""Operators that give the same elements another order or shape, or repeat them."""

from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value


@elementwise("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The gradient in the shape of x."""
    return b.reshape_like(g, x)


@elementwise("Transpose")
def transpose(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The inverse permutation."""
    perm = node.attrs.get("perm")
    if perm is None:
        return b.apply("Transpose", g)
    inverse = sorted(range(len(perm)), key=lambda axis: perm[axis])
    return b.transpose(g, inverse)


@elementwise("Expand")
def expand(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The sum over the repeated axes."""
    return b.sum_to(g, x)


@elementwise("Tile")
def tile(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The sum over the copies."""
    rank, repeats = rank_of(x), node.inputs[1]
    assert repeats is not None
    if rank is None or not repeats.is_constant:
        counts = b.op("Unsqueeze", repeats, b.constant([1]))
        pairs = b.op("Concat", counts, b.op("Unsqueeze", b.shape(x), b.constant([1])), axis=1)
        whole = b.op("Mul", b.op("Size", repeats), b.constant(2))
        copies = b.op("Range", b.constant(0), whole, b.constant(2))
        apart = b.reshape(g, b.op("Reshape", pairs, b.constant([-1])))
        return b.apply("ReduceSum", apart, copies, keepdims=0)
    parts: list[int | Value] = []
    axes: list[int] = []
    for axis, count in enumerate(int(r) for r in repeats.values):
        if count != 1:
            axes.append(len(parts))
            parts.append(count)
        parts.append(b.dim(x, axis))
    return b.sum(b.reshape(g, b.vector(parts)), axes) if axes else b.apply("Identity", g)


@elementwise("DepthToSpace")
def depth_to_space(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """SpaceToDepth, with its channels in the order of the mode: (block, block, C) in DCR, (C, block, block) in CRD."""
    size = int(node.attrs["blocksize"])
    gathered = b.apply("SpaceToDepth", g, blocksize=size)
    if node.attrs.get("mode", "DCR") == "DCR":
        return gathered
    n, _, height, width = (b.dim(x, axis) for axis in range(4))
    split = b.reshape(gathered, b.vector([n, size * size, -1, height, width]))
    return b.reshape(b.transpose(split, [0, 2, 1, 3, 4]), b.shape(x))


@elementwise("SpaceToDepth")
def space_to_depth(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """DepthToSpace."""
    return b.apply("DepthToSpace", g, blocksize=int(node.attrs["blocksize"]), mode="DCR")


@elementwise("Trilu")
def trilu(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The same triangle of the gradient."""
    k = node.inputs[1] if len(node.inputs) > 1 else None
    return b.apply("Trilu", g, k, upper=int(node.attrs.get("upper", 1)))


@elementwise("ReverseSequence")
def reverse_sequence(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The same reversal."""
    return b.apply("ReverseSequence", g, node.inputs[1], **dict(node.attrs))
