"""The transpose of a linear map along one axis."""

from collections.abc import Sequence

from lpcompile.autodiff.builder import GradientBuilder
from lpcompile.ir.value import Value


def along_axis(
    b: GradientBuilder, g: Value, matrix: Value, axis: int, dims: Sequence[int | Value], size: int | Value
) -> Value:
    """The gradient of x where y[.., i, ..] = sum over j of matrix[i, j] x[.., j, ..].

    Args:
        b: what adds the nodes.
        g: gradient of y.
        matrix: (out, in), of the type of g.
        axis: not negative.
        dims: dimensions of g.
        size: in.
    """
    rank = len(dims)
    if axis == rank - 1:
        return b.matmul(g, matrix)
    transposed = b.transpose(matrix, [1, 0])
    if axis == rank - 2:
        return b.matmul(transposed, g)
    out, rest = dims[axis], b.product(dims[axis + 1 :])
    flat = b.matmul(transposed, b.reshape(g, b.vector([-1, out, rest])))
    return b.reshape(flat, b.vector([*dims[:axis], size, *dims[axis + 1 :]]))
