"""INT4 codes that are read as FP8, as layers on integers and on packed blocks store them."""

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lpcompile.errors import TargetError
from lpcompile.ir.eighth_image import bodies, eighth_storage
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.unpacking import add_function
from lpcompile.materialise.names import stem
from lpcompile.materialise.storage import StoredWeights
from lpcompile.quant.dual_precision import DualPrecisionTensor
from lpcompile.quant.eighth_image import EighthImage
from lpcompile.quant.rows import TRANSPOSED_OPS


def store_eighths(
    graph: LpGraph,
    name: str,
    op: str,
    tensor: DualPrecisionTensor,
    shape: tuple[int, ...],
    *,
    held: bool = False,
) -> StoredWeights:
    """Add the initialisers of a layer's codes and scales to the graph, and the bodies that read them.

    Args:
        graph: where they go.
        name: of the layer; initialisers are called `<name>/weight_<role>`.
        op: of the layer: decides the orientation that its operator wants.
        tensor: with an image, or blocks of codes.
        shape: of the original weight tensor.
        held: whether requantisation multipliers would stand in place of the scales.

    Raises:
        TargetError: they would.
    """
    if held:
        raise TargetError(
            "codes that are read as FP8 have scales of their own, no multipliers in their place",
            where=name,
            hint="leave quantnorm out of the pipeline",
        )
    transposed = op in TRANSPOSED_OPS
    packed = np.frombuffer(tensor.packed(), np.uint8)
    roles: dict[str, NDArray[np.generic]] = {
        "codes": packed.reshape(len(tensor.codes), -1) if tensor.shape[1] % 2 == 0 else packed,
        "group_scale": tensor.group_scales.astype(ml_dtypes.bfloat16),
    }
    scale = np.full(len(tensor.codes), tensor.first_scale, np.float32)
    if isinstance(tensor, EighthImage):
        roles["step"] = tensor.steps.astype(ml_dtypes.bfloat16)
        scale = tensor.int8_image()[1]
        for body in bodies(graph.opset):
            add_function(graph, body)
    roles["first_scale"] = np.array(tensor.first_scale, ml_dtypes.bfloat16)
    values = tuple(graph.constant(f"{stem(name)}/weight_{role}", array) for role, array in roles.items())
    attributes = {
        "weight_shape": list(tensor.shape if transposed else shape),
        "group_size": [tensor.group_size],
    }
    storage = eighth_storage(transposed=transposed)
    return StoredWeights(storage, values, attributes, scale, sum(a.nbytes for a in roles.values()), ())
