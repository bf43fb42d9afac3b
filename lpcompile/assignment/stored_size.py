"""Bits that a layer's weights will take in the file, exactly, before any code is chosen.

    codes        as many bits as the format has; the last word of whole codes is filled
    multipliers  4 bits a group, where a row has several groups
    tables       16 bytes a row with a learned codebook each
    side path    8 bits a number of its factors, a multiplier a rank and a step a row; two float32
    scales       32 bits a row; ufloat8_e4m4: 8 bits a row and one float32, except per tensor

A target that requantises by `dyadic` keeps a 16-bit multiplier and an 8-bit shift a channel where a layer gives
integers, a float32 where it gives sums. `--emit qdq` keeps the int8 image, a float32 and a zero point a channel.
"""

from lpcompile.assignment.layer_facts import FLOAT_BITS, LayerFacts, LayerFormat
from lpcompile.formats.packing import packed_size
from lpcompile.plan import Kernel

_INTEGER = (Kernel.INTEGER, Kernel.FLOAT_OUT)
_TABLE_BYTES = 16
_DYADIC_BYTES = {Kernel.INTEGER: 2 + 1, Kernel.FLOAT_OUT: 4}  # a channel


def stored_bits(
    rows: LayerFacts | tuple[int, int], held: LayerFormat, *, dyadic: bool = False, emit: str = "functions"
) -> int:
    """Bits of the initialisers that hold a layer's weights and their scales; biases are counted nowhere.

    Args:
        rows: the layer, or (C_out, K) of its weights.
        held: how.
        dyadic: whether the target requantises so (`Rules.dyadic`).
        emit: form of the model, one of `EMIT_FORMS`.

    Raises:
        FormatError: an unknown format or granularity.
    """
    outputs, inputs = rows.rows if isinstance(rows, LayerFacts) else rows
    count, fmt = outputs * inputs, held.number_format
    if held.kernel is Kernel.FLOAT or fmt is None:
        return count * FLOAT_BITS.get(held.weight.format, 32)
    if emit == "qdq" and held.kernel in _INTEGER:
        return 8 * (count + (4 + 1) * outputs)
    size = packed_size(count, fmt.bits)
    size += packed_size(outputs * held.groups_of(inputs), 4)
    if held.weight.codebooks:
        size += _TABLE_BYTES * outputs
    if held.weight.rank:
        rank = min(held.weight.rank, outputs, inputs)
        size += rank * (outputs + inputs) + rank + outputs + 2 * 4
    if dyadic and held.kernel in _INTEGER:
        return 8 * (size + _DYADIC_BYTES[held.kernel] * outputs)
    short = held.weight.scale_format != "float32" and held.weight.granularity != "tensor"
    return 8 * (size + (outputs + 4 if short else 4 * outputs))
