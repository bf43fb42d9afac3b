"""BlockQuantMatMul: 4-bit weights that stay packed in memory, through ONNX Runtime's MatMulNBits.

    a = max|x_g| / 127;  x_q = rne(x_g / a)            for each row and block g of 32 inputs, symmetric int8
    y = sum_g a * w_s * m_g * sum(x_q * i8[code])

MatMulNBits wants blocks of 32 codes as unsigned nibbles around 8, and a float scale a block. Codes, multipliers and
channel scales are stored as in every other 4-bit layer; the body turns them into both by constant operators. The
rounding of x is `accuracy_level` 4, which the body writes down: it is no matter of a session's options.

What a kernel makes of x may differ (level 4 is the least it must hold, and some processors have no int8 kernel), but
by no more than half a step of every input: |y - x W^| <= sum_g a / 2 * sum|w^_g|, w^ the stored weights as numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto, TensorProto

from lpcompile.formats.base import NumberFormat
from lpcompile.formats.group import is_exact
from lpcompile.formats.planned import short_name
from lpcompile.ir.decode import Storage, channel_scale
from lpcompile.ir.function import FunctionBuilder, integer
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.unpacking import nibbles, taken_apart, whole

BLOCK = 32  # inputs that share a scale, of weights and of activations
ACCURACY_LEVEL = 4  # activations rounded to int8; 0 would leave them float, at a quarter of the speed
OP = "MatMulNBits"
FAMILY = "BlockQuantMatMul"
LARGEST_CODE = 127.0
_LEAST, _GREATEST = -8, 7
_ATTRIBUTES = ("format", "granularity", "weight_shape")


def accuracy_attributes() -> dict[str, int]:
    """The attributes of MatMulNBits that do not depend on the layer."""
    return {"bits": 4, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}


def attributes_of(rows_shape: Sequence[int]) -> dict[str, Any]:
    """The attributes of a call that hold the shape of its weights, (N, K)."""
    outputs, inputs = rows_shape
    return {"K": inputs, "N": outputs, "block_shape": [outputs, inputs // BLOCK, BLOCK // 2]}


def obstacle(fmt: NumberFormat, granularity: str, inputs: int, *, codebooks: bool = False) -> str:
    """Why MatMulNBits cannot hold weights exactly; empty where it can.

    Args:
        fmt: of the codes.
        granularity: "tensor", "channel" or "group<N>".
        inputs: K of the layer.
        codebooks: whether every channel has a table of its own.
    """
    image = fmt.image()
    if (
        image is None
        or codebooks
        or fmt.bits > 4
        or image.min() < _LEAST
        or image.max() > _GREATEST
        or not is_exact(fmt)
    ):
        return f"{short_name(fmt.name)} is no 4-bit integer times a scale"
    if inputs % BLOCK:
        return f"its {inputs} inputs are no multiple of {BLOCK}"
    group = int(granularity.removeprefix("group")) if granularity.startswith("group") else inputs
    return f"groups of {group} inputs are no multiple of {BLOCK}" if group % BLOCK else ""


def block_quant_matmul(storage: Storage, opset: int) -> FunctionProto:
    """BlockQuantMatMul: float32 (..., K) times stored (N, K), K a multiple of 32 -> float32 (..., N)."""
    doc = "y = MatMulNBits(x, codes + 8, w_scale * multipliers), accuracy_level 4: x rounded to int8 by blocks of 32"
    b = FunctionBuilder(f"{FAMILY}_{storage.own_label}", ["x", *storage.inputs], ["y"], doc)
    b.declare(*_ATTRIBUTES)
    blocks_product(b, storage.format, _block_scales(b, storage))
    return b.build(opset)


def blocks_product(b: FunctionBuilder, fmt: NumberFormat, scales: str) -> None:
    """The output `y` of a body: inputs `x` times `codes` in a format, under the scales (N, K / 32) of their blocks."""
    blocks = b.op("Reshape", _offset_nibbles(b, fmt), b.attribute("block_shape"))  # (N, K / 32, 16)
    b.op(
        OP,
        "x",
        blocks,
        scales,
        out="y",
        domain=RUNTIME_DOMAIN,
        K=integer("K"),
        N=integer("N"),
        **accuracy_attributes(),
    )


def _offset_nibbles(b: FunctionBuilder, fmt: NumberFormat) -> str:
    """Bytes of two values, each plus 8, low half first; by pairs of codes where a byte holds two."""
    levels = fmt.image()
    assert levels is not None
    value = levels.astype(np.int32) - _LEAST
    if fmt.bits == 4:
        byte = np.arange(256)
        pairs = (value[byte & 15] | value[byte >> 4] << 4).astype(np.uint8)
        return b.op("Gather", b.constant(pairs), b.op("Cast", "codes", to=TensorProto.INT32))
    values = b.op("Gather", b.constant(value), taken_apart(b, "codes", fmt.bits))
    halves = b.op("Reshape", values, whole(b, -1, 2))
    return b.op(
        "Cast", b.op("MatMul", halves, b.constant(np.array([[1], [16]], np.int32))), to=TensorProto.UINT8
    )


def _block_scales(b: FunctionBuilder, storage: Storage) -> str:
    """(N, K / 32) float32 scales of the blocks."""
    column = b.op("Reshape", channel_scale(b, storage, own=True), b.constant(np.array([-1, 1], np.int64)))
    first, second = (b.constant(np.array([i], np.int64)) for i in (0, 2))
    shape = b.op("Slice", b.attribute("block_shape"), first, second)  # N, K / 32
    if not storage.group_size:
        return b.op("Expand", column, shape)
    codes = b.op("Slice", nibbles(b, "multipliers"), whole(b, 0), b.attribute("group_count"))
    multipliers = b.op("Cast", codes, to=1)
    rows = b.op("Reshape", multipliers, b.attribute("group_shape"))  # (N, groups, 1)
    spread = b.op("Expand", rows, b.constant(np.array([1, 1, storage.group_size // BLOCK], np.int64)))
    flat = b.op("Reshape", spread, b.constant(np.array([0, -1], np.int64)))
    used = b.op(
        "Slice", flat, b.constant(np.array([0, 0], np.int64)), shape
    )  # a row's last group may be short
    return b.op("Mul", used, column)
