"""The last look at codes before a model is written: no product that some CPUs add in pairs leaves int16.

Passes keep scales large enough for that (`passes.least_scale`); what rounding beyond nearest left over is mended here.
"""

from dataclasses import replace

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.product_order import product_order
from lpcompile.passes.least_scale import largest_code
from lpcompile.plan import SUMMING, Kernel, LayerPlan
from lpcompile.quant.concat_path import concat_pairs_saturate
from lpcompile.quant.neighbours import Order
from lpcompile.quant.qtensor import QuantizedTensor
from lpcompile.quant.within_int16 import within_int16
from lpcompile.records import PassReport

NAME = "reduce-range"
BEYOND_INT16 = "two of its products may leave int16, in which some CPUs add them"


def keep_within_int16(graph: LpGraph) -> PassReport:
    """Exchange codes whose neighbouring products may leave int16, where the plan says so; what was done.

    A side path that is concatenated goes where it is too large for that, and a layer of which no codes do is stored as
    it is and computes in floats.
    """
    report = PassReport(NAME)
    for node in graph.layers() if graph.plan.reduce_range else ():
        layer, order = graph.plan.layers.get(node.name), product_order(node)
        if layer is None or layer.tensor is None or layer.kernel not in SUMMING or order is None:
            continue
        mended = _mended(layer, order, largest_code(graph, node, layer.kernel))
        if mended is layer:
            continue
        graph.plan = graph.plan.with_layer(node.name, mended)
        if mended.kernel is Kernel.WEIGHT_ONLY:
            report.change(node.name, BEYOND_INT16, after=mended.kernel.value)
            continue
        assert mended.tensor is not None
        what = "codes exchanged" if mended.weight == layer.weight else "without its side path"
        changed = int((mended.tensor.codes != layer.tensor.codes).sum())
        report.change(node.name, what, after=f"{changed} of {mended.tensor.codes.size}")
    return report


def _mended(layer: LayerPlan, order: Order, largest: int) -> LayerPlan:
    tensor = layer.tensor
    assert tensor is not None
    found = within_int16(tensor, tensor.dequantize(), order, largest)
    if found is not None and not _joined_saturates(found, largest):
        return layer if found is tensor else replace(layer, tensor=found, codes_sha256=found.digest())
    if tensor.side is not None and tensor.side.concat:
        main = tensor.main
        alone = replace(layer, tensor=main, codes_sha256=main.digest(), weight=layer.weight.alone)
        return _mended(alone, order, largest)
    return replace(layer, kernel=Kernel.WEIGHT_ONLY, reason=BEYOND_INT16)


def _joined_saturates(tensor: QuantizedTensor, largest: int) -> bool:
    """Whether the product that reads the numbers of a side path as well can leave int16."""
    path = tensor.side
    return path is not None and path.concat and concat_pairs_saturate(path, tensor.int8_image()[0], largest)
