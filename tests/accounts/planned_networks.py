"""Plans made by hand: what is counted needs formats and kernels, but no codes."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lpcompile.accounts.entries import Account, Entry
from lpcompile.accounts.sizes import settled
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.passes.fold_batchnorm import FoldBatchnorm
from lpcompile.pipeline import PassContext
from lpcompile.plan import ActivationPlan, Kernel, LayerPlan, QuantPlan, WeightPlan
from lpcompile.quant.granularity import PerTensor
from lpcompile.quant.qtensor import QuantizedTensor
from models.separable import Member, mobilenet_v1
from tests.support import parse_model

ANY_CODES = QuantizedTensor(np.zeros(1, np.uint8), resolve("int8"), PerTensor(), np.ones((), np.float32))


def graph_of(text: str) -> LpGraph:
    """A graph of `parse_model` text with shapes, its batch settled."""
    graph = LpGraph.from_proto(parse_model(text))
    graph.infer_shapes()
    return settled(graph)


def layer(fmt: str, kernel: Kernel = Kernel.INTEGER, granularity: str = "channel") -> LayerPlan:
    return LayerPlan(kernel, WeightPlan(fmt, granularity), tensor=ANY_CODES)


def plan(
    layers: Mapping[str, LayerPlan],
    activations: Mapping[str, str],
    elementwise: tuple[str, ...] = (),
    scales: Mapping[str, float] = MappingProxyType({}),
) -> QuantPlan:
    """A plan: formats of activations by tensor, all of scale 1 and zero point 0 but for `scales`."""
    held = {name: ActivationPlan(fmt, scales.get(name, 1.0), 0, name) for name, fmt in activations.items()}
    return QuantPlan(
        MappingProxyType(dict(layers)),
        MappingProxyType(held),
        MappingProxyType(dict.fromkeys(elementwise, "by hand")),
    )


def member(of: Member, pointwise: str = "pot4") -> LpGraph:
    """A network of the PikeLPN family with its plan: norms folded, clamps absorbed, logits as floats."""
    graph = LpGraph.from_proto(mobilenet_v1(of.width))
    FoldBatchnorm().run(graph, PassContext())
    graph = settled(graph)
    wide = f"uint{of.activation_bits}"
    convolutions = graph.nodes("Conv")
    layers = {n.name: layer(pointwise if n.name.startswith("pw") else "int8") for n in convolutions}
    outputs = [v.name for n in graph.nodes("Relu") for v in n.outputs if v is not None]
    graph.plan = plan(
        {**layers, "fc": layer("int8", Kernel.FLOAT_OUT)},
        {"image": "uint8", **dict.fromkeys((*outputs, "pool/out", "flat/out"), wide)},
        ("pool", "flat", *(n.name for n in graph.nodes("Relu"))),
    )
    return graph


def entries(account: Account) -> dict[str, Entry]:
    """By node; each must appear once."""
    found = {e.node: e for e in account.entries}
    assert len(found) == len(account.entries)
    return found
