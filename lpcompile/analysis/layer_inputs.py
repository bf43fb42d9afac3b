"""What the products of a layer's outputs read: its input unfolded into columns, one for each position of the output.

A column holds the K inputs that the rows (C_out / G, K) of the layer's weights are multiplied with, in their order;
padding counts as zeros. Only the columns that are asked for are made.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from lpcompile.analysis.sampled_columns import Positions
from lpcompile.formats.arrays import F32
from lpcompile.ir.conv_geometry import ConvGeometry
from lpcompile.ir.node import Node


@dataclass(frozen=True, slots=True)
class InputReading:
    """How a layer reads a tensor; layers with equal readings multiply the same inputs.

    Attributes:
        tensor: its name.
        groups: G, of a convolution; else 1.
        inputs: K.
        kernel: of a convolution; empty for a matrix product.
        strides, dilations, pads, auto_pad: of a convolution, as ONNX has them.
        transposed: the tensor is read as (K, rows).
    """

    tensor: str
    groups: int
    inputs: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    transposed: bool = False

    def spans(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The dimensions that the columns of a tensor of this shape run over: images and places, or all but one."""
        if self.kernel:
            return (shape[0], *self._geometry(shape).out)
        return shape[1:] if self.transposed else shape[:-1]

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many columns a tensor of this shape has."""
        return prod(self.spans(shape))

    def columns(self, x: NDArray[np.generic], at: Positions) -> F32:
        """The columns at flat positions (images first), (G, K, len(at))."""
        if not self.kernel:
            rows = x.T if self.transposed else x.reshape(-1, self.inputs)
            taken = rows if len(at) == len(rows) else rows[at]
            return np.asarray(taken, np.float32).T[None]
        geometry, sizes = self._geometry(x.shape), x.shape[2:]
        images = x.reshape(*x.shape[:2], -1)
        image, position = np.divmod(at, prod(geometry.out))
        flat, valid, _ = geometry.taps(position, sizes)
        flat, outside = np.ascontiguousarray(flat.T), ~valid.T
        padded = bool(outside.any())
        ends = [*(np.flatnonzero(np.diff(image)) + 1), len(at)]
        parts = []
        for start, end in pairwise([0, *ends] if len(at) else []):
            part = images[image[start]].take(flat[:, start:end], axis=1)  # (C, T, positions)
            if padded:
                part[:, outside[:, start:end]] = 0
            parts.append(part)
        if not parts:
            return np.zeros((self.groups, self.inputs, 0), np.float32)
        taken = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        return np.asarray(taken.reshape(self.groups, self.inputs, len(at)), np.float32)

    def _geometry(self, shape: tuple[int, ...]) -> ConvGeometry:
        attributes = {
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
            "auto_pad": self.auto_pad,
        }
        return ConvGeometry.of(attributes, self.kernel, shape[2:])


def input_reading(node: Node) -> InputReading | str:
    """How a layer reads its input, or why that is no matrix of columns for the rows of its weights."""
    x, weight = (*node.inputs, None, None)[:2]
    if node.op == "ConvTranspose":
        return "rows of ConvTranspose are input channels: no output sums the products of one row"
    if node.domain or node.op not in ("Conv", "Gemm", "MatMul"):
        return f"{node.op} is no layer"
    if weight is None or not weight.is_constant:
        return "its second input is no constant weight"
    if x is None or x.is_constant:
        return "its input is constant"
    if node.op == "Conv":
        return _of_conv(node, x.name, weight.dims)
    if len(weight.dims) != 2:
        return "its weight is no matrix"
    if node.attrs.get("transB", 0):
        return "the Gemm is not in the form x @ W + b"
    return InputReading(x.name, 1, weight.dims[0], transposed=bool(node.attrs.get("transA", 0)))


def _of_conv(node: Node, tensor: str, weight: tuple[int, ...]) -> InputReading:
    kernel = weight[2:]
    attrs, ones = node.attrs, [1] * len(kernel)
    dilations = attrs.get("dilations") or ones
    return InputReading(
        tensor,
        int(attrs.get("group", 1)),
        prod(weight[1:]),
        kernel,
        tuple(attrs.get("strides") or ones),
        tuple(1 if k == 1 else d for k, d in zip(kernel, dilations, strict=True)),
        tuple(attrs.get("pads") or [0] * 2 * len(kernel)),
        str(attrs.get("auto_pad", "NOTSET")),
    )
