"""Resize: a linear map along each axis; its matrix is what Resize itself makes of the identity.

So every mode, coordinate transformation and rounding is the one of the runtime that runs the gradient, shapes
may be unknown before, and where they are known the runtime folds the matrix into a constant. Nearest
neighbours at a whole scale need none of it: there the gradient is the sum over the copies.
"""

from collections.abc import Sequence

import numpy as np

from lpcompile.autodiff.axis_map import along_axis
from lpcompile.autodiff.builder import GradientBuilder, rank_of
from lpcompile.autodiff.elementwise import elementwise
from lpcompile.errors import GradientError
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_COPIED = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


@elementwise("Resize")
def resize(b: GradientBuilder, node: Node, x: Value, y: Value, g: Value) -> Value:
    """The transposed map along every axis that was resized.

    Raises:
        GradientError: the rank is unknown, or sizes are asked for that keep the aspect ratio.
    """
    rank = rank_of(x)
    if rank is None:
        raise GradientError("Resize of a tensor of unknown rank has no gradient", where=node.name)
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise GradientError(
            "Resize with a keep_aspect_ratio_policy has no gradient",
            where=node.name,
            hint="give the sizes that result, with the policy 'stretch'",
        )
    axes = [int(a) % rank for a in node.attrs.get("axes", range(rank))]
    inner, outer = ([b.dim(v, a) for a in range(rank)] for v in (x, y))
    factors = {axis: _factor(node, i, inner[axis], outer[axis]) for i, axis in enumerate(axes)}
    copies = {axis: k for axis, k in factors.items() if k is not None and (k == 1 or _repeats(node, k))}
    g = _summed_copies(b, g, inner, outer, {axis: k for axis, k in copies.items() if k > 1})
    current = [inner[axis] if axis in copies else outer[axis] for axis in range(rank)]
    for i, axis in enumerate(axes):
        if axis not in copies:
            matrix = _matrix(b, node, i, len(axes), inner[axis], outer[axis], g)
            g = along_axis(b, g, matrix, axis, current, inner[axis])
            current[axis] = inner[axis]
    return b.apply("Identity", g) if set(copies.values()) <= {1} and len(copies) == len(axes) else g


def _input(node: Node, i: int) -> Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _factor(node: Node, i: int, n: int | Value, length: int | Value) -> int | None:
    """The scale along entry `i` of scales or sizes, where it is known to be a whole number."""
    if node.attrs.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    scales = _input(node, 2)
    if scales is not None and scales.is_constant and scales.values.size:
        scale = float(scales.values[i])
        return int(scale) if scale == int(scale) else None
    sized = scales is None or (scales.is_constant and not scales.values.size)
    if sized and isinstance(n, int) and isinstance(length, int) and n and length % n == 0:
        return length // n
    return None


def _repeats(node: Node, factor: int) -> bool:
    """Whether nearest neighbours at a whole scale are plain copies of every element."""
    if node.attrs.get("mode", "nearest") != "nearest":
        return False
    i = np.arange(4 * factor)
    transformation = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if transformation == "asymmetric":
        x = i / factor
    elif transformation in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        x = (i + 0.5) / factor - 0.5
    else:
        return False
    nearest = {
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
        "floor": np.floor(x),
        "ceil": np.ceil(x),
    }[node.attrs.get("nearest_mode", "round_prefer_floor")]
    return bool((np.clip(nearest, 0, 3) == i // factor).all())


def _summed_copies(
    b: GradientBuilder,
    g: Value,
    inner: Sequence[int | Value],
    outer: Sequence[int | Value],
    factors: dict[int, int],
) -> Value:
    if not factors:
        return g
    # Leading axes are one: ONNX Runtime sums tensors of few axes faster.
    start = min(factors)
    parts: list[int | Value] = [-1, factors[start]]
    axes = [1]
    for axis in range(start + 1, len(inner)):
        parts.append(inner[axis] if axis in factors else outer[axis])
        if axis in factors:
            axes.append(len(parts))
            parts.append(factors[axis])
    summed = b.sum(b.reshape(g, b.vector(parts)), axes)
    return b.reshape(summed, b.vector([inner[i] if i in factors else outer[i] for i in range(len(inner))]))


def _matrix(
    b: GradientBuilder, node: Node, i: int, entries: int, n: int | Value, length: int | Value, like: Value
) -> Value:
    """(length, n): the map along entry `i` of scales or sizes."""
    roi, scales = _input(node, 1), _input(node, 2)
    if isinstance(n, int):
        identity = b.constant(np.eye(n, dtype=like.dtype or np.float32))
    else:
        ones = b.op("Expand", b.number(1.0, like), b.vector([n, n]))
        identity = b.apply("EyeLike", b.with_type(ones, like))
    attrs = {name: node.attrs[name] for name in _COPIED if name in node.attrs}
    of_roi = None
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize" and roi is not None:
        both = b.apply("Gather", roi, b.constant([i, entries + i]))
        corners = [b.apply("Gather", both, b.constant([j])) for j in (0, 1)]
        zero, one = (b.constant(np.full(1, v, roi.dtype or np.float32)) for v in (0, 1))
        of_roi = b.op("Concat", zero, corners[0], one, corners[1], axis=0)
    if scales is not None and not (scales.is_constant and not scales.values.size):
        scale = b.op(
            "Concat", b.constant(np.ones(1, np.float32)), b.op("Gather", scales, b.constant([i])), axis=0
        )
        resized = b.apply("Resize", identity, of_roi, scale, **attrs)
    else:
        resized = b.apply("Resize", identity, of_roi, None, b.vector([n, length]), **attrs)
    return b.transpose(resized, [1, 0])
