"""What the u8 x s8 kernels of x86 CPUs without VNNI may get wrong: they add two products in int16, which saturates.

[onnxruntime, quantization guide, `reduce_range`; issues 6004, 12072, 16105]
"""

from lpcompile.assignment.planned_format import activation_bits, activation_format
from lpcompile.ir.graph import LpGraph
from lpcompile.plan import SUMMING
from lpcompile.quant.accumulators import pairs_may_saturate

SOURCE = "ONNX Runtime, quantization guide: reduce_range"


def saturation_assumption(graph: LpGraph) -> list[dict[str, str]]:
    """That the CPU has VNNI, or is no x86, where layers need it; empty where none does.

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
        largest_code = (1 << activation_bits(activation_format(graph, node))) - 1
        path = tensor.side if tensor.side is not None and tensor.side.concat else None
        factors = () if path is None else (path.a, path.b)
        found += any(pairs_may_saturate(w, largest_code) for w in (tensor.int8_image()[0], *factors))
    if not found:
        return []
    what = (
        f"the CPU sums products of 8 bits exactly: ARM, or x86 with VNNI or AMX; other x86 add pairs of them in int16, "
        f"which {found} of {len(summing)} integer layers can leave (--weight-format int7 cannot)"
    )
    return [{"what": what, "source": SOURCE}]
