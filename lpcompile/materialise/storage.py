"""From the codes of a layer to what the file holds: packed bytes, scales, attributes of the unpacking body."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcompile.formats.base import NumberFormat, resolve
from lpcompile.formats.packing import pack
from lpcompile.ir.decode import Storage
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.value import Value
from lpcompile.materialise.names import stem
from lpcompile.plan import LayerPlan
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.rows import TRANSPOSED_OPS, from_rows
from lpcompile.quant.short_multipliers import short_multipliers

INT8 = "int8"
HALF_BITS = 16  # of scales with 8 significant bits
SCALE_CODES = {"ufloat8_e4m4": "s8", "uint8": "u8"}


@dataclass(frozen=True)
class StoredWeights:
    """The weights of one layer as they stand in the file.

    Attributes:
        storage: which body unpacks them.
        values: initialisers in the order of `storage.inputs`.
        shared: those in the order of `storage.format_inputs`, one of each kind for all layers of a format.
        attributes: attributes of the call node that the body refers to.
        scale: float32 scale of each output channel, (C_out,), as the body computes it.
        weight_bytes: bytes of the initialisers.
    """

    storage: Storage
    values: tuple[Value, ...]
    attributes: dict[str, Any]
    scale: NDArray[np.float32]
    weight_bytes: int
    shared: tuple[Value, ...]

    @property
    def integer_values(self) -> tuple[Value, ...]:
        """What the int8 weights come from, in the order of `storage.integer_inputs` and `storage.level_inputs`."""
        return (*self.own_integers, *self.shared[: len(self.storage.level_inputs)])

    @property
    def own_integers(self) -> tuple[Value, ...]:
        """Those of them that are the layer's own."""
        return self.values[: len(self.storage.integer_inputs)]


def store_weights(
    graph: LpGraph,
    name: str,
    op: str,
    plan: LayerPlan,
    shape: tuple[int, ...],
    multiplier: NDArray[np.float32] | None = None,
) -> StoredWeights:
    """Add the initialisers of a layer's quantised weights to the graph.

    Args:
        graph: where they go.
        name: of the layer; initialisers are called `<name>/<role>`.
        op: of the layer: decides the orientation that its operator wants.
        plan: with codes of shape (C_out, K).
        shape: of the original weight tensor.
        multiplier: (C_out,) that stands in place of the scales.
    """
    assert plan.tensor is not None, "a quantised layer has codes once quantize-weights ran"
    side, q = plan.tensor.side, plan.tensor.main
    multipliers, channel = split_scales(q)
    fmt = resolve(plan.weight.format)
    scale = np.broadcast_to(_layer_scale(q).reshape(-1), (q.codes.shape[0],))
    if multiplier is not None:
        scale = multiplier
        channel = short_multipliers(multiplier / np.float64(_image_unit(q, fmt))) or multiplier
    scale_codes, scale_roles = _stored_scales(channel, scale, halves=multiplier is None and _halves(q))
    attributes: dict[str, Any] = {"weight_shape": list(shape)}
    roles: list[tuple[str, NDArray[Any]]]
    if fmt.bits == 8 and fmt.image() is not None:
        w8, _ = q.int8_image()
        storage = Storage(resolve(INT8), scale_codes=scale_codes)
        roles = [("weight_quantized", from_rows(op, w8, shape))]
    else:
        transposed = op in TRANSPOSED_OPS
        rows_shape = list(q.codes.shape) if transposed else list(shape)
        storage = Storage(
            fmt,
            group_size=0 if multipliers is None else _group_size(plan),
            scale_codes=scale_codes,
            row_tables=bool(plan.weight.codebooks),
            transposed=transposed,
            straddling=fmt.bits == 4 and _straddling(plan, q.codes.shape[1], multipliers),
            side=side is not None,
        )
        attributes |= {"weight_shape": rows_shape, "code_count": [q.codes.size]}
        packed = np.frombuffer(pack(q.codes, fmt.bits), np.uint8) if storage.packed else q.codes
        if storage.pairs and q.codes.shape[1] % 2 == 0:
            packed = packed.reshape(q.codes.shape[0], -1)
        roles = [("weight_codes", packed)]
        if multipliers is not None:
            rows, groups = multipliers.shape
            attributes |= {
                "group_size": [storage.group_size],
                "group_count": [multipliers.size],  # these two only BlockQuantMatMul reads
                "group_shape": [rows, groups, 1],
            }
            roles.append(("weight_multipliers", np.frombuffer(pack(multipliers, 4), np.uint8)))
        if storage.row_tables:
            roles.append(("weight_tables", _row_tables(plan)))
    roles += scale_roles
    if side is not None:
        roles += side.arrays().items()
        scale = plan.tensor.int8_image()[1]
    values = tuple(graph.constant(f"{stem(name)}/{role}", array) for role, array in roles)
    shared = tuple(_shared(graph, f"{fmt.name}/{role}", a) for role, a in storage.format_values().items())
    size = sum(a.nbytes for _, a in roles)
    return StoredWeights(storage, values, attributes, np.ascontiguousarray(scale), size, shared)


def _stored_scales(
    channel: QuantizedTensor | NDArray[np.float32], scale: NDArray[np.float32], *, halves: bool
) -> tuple[str, list[tuple[str, NDArray[Any]]]]:
    """How channel scales are coded, and what holds them.

    Args:
        channel: as quantised.
        scale: (C_out,) as the body gives them, where they are stored as they are.
        halves: whether the lower halves of the float32 are zeros.
    """
    if isinstance(channel, QuantizedTensor):
        unit = np.asarray(channel.scales, np.float32).reshape(())
        codes: NDArray[Any] = channel.codes.reshape(-1)
        return SCALE_CODES[channel.format.name], [("weight_scale_codes", codes), ("weight_scale_unit", unit)]
    if halves and channel.size > 1:
        codes = (np.ascontiguousarray(channel.reshape(-1)).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return "b16", [("weight_scale_codes", codes), ("weight_scale_unit", np.array(1, np.float32))]
    return "", [("weight_scale", np.ascontiguousarray(scale))]


def _halves(q: QuantizedTensor) -> bool:
    inner = q.scales if isinstance(q.scales, QuantizedTensor) else q
    return inner.scale_bits == HALF_BITS


def _image_unit(q: QuantizedTensor, fmt: NumberFormat) -> float:
    """What the body multiplies stored scales by."""
    if fmt.bits == 8 and fmt.image() is not None:
        return 1.0
    groups = split_scales(q)[0] is not None
    return Storage(fmt, group_size=int(groups)).image_unit


def _shared(graph: LpGraph, name: str, array: NDArray[Any]) -> Value:
    """An initialiser for all layers of a format; that of groups is another one than that without."""
    name = f"{name}{array.shape[-1] if array.ndim else ''}"
    if name in graph and (found := graph.value(name)).is_constant and np.array_equal(found.values, array):
        return found
    return graph.constant(name, array)


def _straddling(plan: LayerPlan, inputs: int, multipliers: NDArray[np.uint8] | None) -> bool:
    """Whether a byte can hold codes that need different tables, or half a byte of multipliers is left over."""
    if multipliers is not None:
        return inputs % 2 == 1 or _group_size(plan) % 2 == 1 or multipliers.size % 2 == 1
    return bool(plan.weight.codebooks) and inputs % 2 == 1


def split_scales(
    q: QuantizedTensor,
) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32] | QuantizedTensor]:
    """Integer group multipliers (C_out, G), if any, and the channel scales."""
    scales = q.scales
    if isinstance(scales, QuantizedTensor) and scales.format.name == "uint4":
        return scales.codes, scales.scales
    return None, scales


def image_rows(plan: LayerPlan) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The int8 weights (C_out, K) of a layer and their scale, from its own tables where it has them."""
    assert plan.tensor is not None
    w8, scale = plan.tensor.int8_image()
    if plan.weight.codebooks:
        w8 = np.take_along_axis(_row_tables(plan), plan.tensor.codes.astype(np.intp), axis=1)
    return w8, scale


def _row_tables(plan: LayerPlan) -> NDArray[np.int8]:
    return np.array([list(bytes.fromhex(t)) for t in plan.weight.codebooks], np.uint8).view(np.int8)


def _layer_scale(q: QuantizedTensor) -> NDArray[np.float32]:
    """The scale that multiplies what the body unpacks: the int8 image, or the values of a format without one."""
    if q.has_int8_image:
        return q.int8_image()[1]
    scales = q.scales
    return scales.dequantize() if isinstance(scales, QuantizedTensor) else scales


def _group_size(plan: LayerPlan) -> int:
    return int(plan.weight.granularity.removeprefix("group"))


def quantize_bias(
    bias: NDArray[np.floating] | None, x_scale: float, scale: NDArray[np.float32]
) -> NDArray[np.int32] | None:
    """Bias in units of the accumulator, `rint(b / (x_scale * w_scale))`, int32 (C_out,).

    The weights' scales are chosen so that it fits (`quantize-weights` keeps |bias| below 2^30 units).
    """
    if bias is None:
        return None
    unit = np.float32(x_scale) * scale
    return np.clip(np.rint(bias.astype(np.float64) / unit), -(2**31), 2**31 - 1).astype(np.int32)


def shortest_bias(bias: NDArray[np.int32]) -> NDArray[np.signedinteger[Any]]:
    """The same numbers as int16 where that holds them all; bodies make them int32 when the model is loaded."""
    short = bias.astype(np.int16)
    return short if np.array_equal(short, bias) else bias
