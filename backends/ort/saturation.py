"""What the u8 x s8 kernels of x86 CPUs without VNNI may get wrong: they add two products in int16, which saturates.

[onnxruntime, quantization guide, `reduce_range`; issues 6004, 12072, 16105]
"""

from functools import cache

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lpcompile.assignment.planned_format import activation_bits, activation_format
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.product_order import product_order
from lpcompile.plan import SUMMING
from lpcompile.quant.accumulators import LARGEST_CODE
from lpcompile.quant.concat_path import concat_pairs_saturate
from lpcompile.quant.neighbours import pairs_saturate

SOURCE = "ONNX Runtime, quantization guide: reduce_range"
_LARGEST_WEIGHT = 127


@cache
def adds_pairs_in_int16() -> bool:
    """Whether this CPU's kernel gets the sum of two large products wrong."""
    weights = np.full((2, 1), _LARGEST_WEIGHT, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "two products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": np.full((1, 2), LARGEST_CODE, np.uint8)})
    return bool(found != 2 * LARGEST_CODE * _LARGEST_WEIGHT)


def saturation_assumption(graph: LpGraph) -> list[dict[str, str]]:
    """That the CPU has VNNI, or is no x86, where layers need it; or that none needs it; empty without such layers.

    Args:
        graph: float, with its plan and the codes of its layers.
    """
    plans = {n.name: graph.plan.layers.get(n.name) for n in graph.layers()}
    summing = [
        (graph.node(name), p.tensor)
        for name, p in plans.items()
        if p is not None and p.kernel in SUMMING and p.tensor is not None
    ]
    found = 0
    for node, tensor in summing:
        order = product_order(node)
        if order is None:
            continue
        largest_code = (1 << activation_bits(activation_format(graph, node))) - 1
        w8, path = tensor.int8_image()[0], tensor.side
        joined = path is not None and path.concat and concat_pairs_saturate(path, w8, largest_code)
        found += joined or pairs_saturate(w8, order, largest_code)
    if found:
        what = (
            "the CPU sums products of 8 bits exactly: ARM, or x86 with VNNI or AMX; other x86 add pairs of them in "
            f"int16, which {found} of {len(summing)} integer layers can leave (with --reduce-range on none can)"
        )
    elif summing and graph.plan.reduce_range:
        what = (
            "sums of two products of 8 bits stay within int16, in which x86 without VNNI makes them; for other CPUs "
            "--reduce-range off gives weights a little more room"
        )
    else:
        return []
    return [{"what": what, "source": SOURCE}]
