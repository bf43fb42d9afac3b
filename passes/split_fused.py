"""Rule of `canonicalize`: what ONNX Runtime's optimiser fused is spelled in parts, of which the product is a layer.

Models that were saved after optimisation hold FusedConv, FusedGemm, FusedMatMul and Attention of `com.microsoft`, with
weights inside, and embeddings, norms and activations (`split_fused_embedding`, ...) that passes know by their parts.
The runtime fuses the parts again where that is faster.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.runtime_operators import RUNTIME_DOMAIN
from lpcompile.ir.value import Value
from lpcompile.passes.constant_inputs import input_at, output_at, rank_of
from lpcompile.passes.node_replacement import part, put_instead
from lpcompile.passes.split_fused_embedding import EMBEDDINGS, split_embedding
from lpcompile.passes.split_fused_gelus import GELUS, split_gelu
from lpcompile.passes.split_fused_norms import NORMS, split_norm
from lpcompile.records import PassReport

_NO_PARAMETERS = ("Relu", "Sigmoid", "Tanh")
_ALPHA = {"LeakyRelu": 0.01, "HardSigmoid": 0.2}
_CACHES = (4, 6)  # past, and its length
_OF_HEADS = ("num_heads", "unidirectional", "mask_filter_value", "scale")


def split_fused(graph: LpGraph, report: PassReport) -> None:
    """Put parts in the place of fused layers; types and shapes behind them are known then."""
    turned: dict[Value, Value] = {}  # products that share a weight go on sharing
    rules: dict[str, Callable[[LpGraph, Node], str]] = {
        "FusedConv": _conv,
        "FusedGemm": _gemm,
        "FusedMatMul": lambda g, n: _matmul(g, n, turned),
        "Attention": _attention,
        **dict.fromkeys(NORMS, split_norm),
        **dict.fromkeys(GELUS, split_gelu),
        **dict.fromkeys(EMBEDDINGS, split_embedding),
    }
    while True:
        changed, skipped = False, list[tuple[Node, str]]()
        for node in graph.nodes():
            if node.domain != RUNTIME_DOMAIN or node.op not in rules:
                continue
            op = node.op
            if reason := rules[op](graph, node):
                skipped.append((node, reason))
            else:
                report.change(node, f"{op} spelled in its parts")
                changed = True
        if not changed:
            break
        graph.infer_shapes()  # of a mask that another one gives, for instance
    for node, reason in skipped:
        report.skip(node, reason)


def _conv(graph: LpGraph, node: Node) -> str:
    attrs = dict(node.attrs)
    activation, given = str(attrs.pop("activation", "")), list(attrs.pop("activation_params", []))
    if (made := _activation(graph, node, activation, given)) is None:
        return f"activation {activation} is not known"
    value = part(graph, node, "Conv", node.inputs[:3], attrs)
    if (added := input_at(node, 3)) is not None:
        value = part(graph, node, "Add", [value, added])
    op, others, attributes = made
    put_instead(graph, node, op, [value, *others], attributes)
    return ""


def _gemm(graph: LpGraph, node: Node) -> str:
    attrs = dict(node.attrs)
    activation = str(attrs.pop("activation", ""))
    names = [n for n in ("activation_alpha", "activation_beta", "activation_gamma") if n in attrs]
    if (made := _activation(graph, node, activation, [attrs.pop(n) for n in names])) is None:
        return f"activation {activation} is not known"
    value = part(graph, node, "Gemm", node.inputs, attrs)
    op, others, attributes = made
    put_instead(graph, node, op, [value, *others], attributes)
    return ""


def _matmul(graph: LpGraph, node: Node, turned: dict[Value, Value]) -> str:
    sides = [v for v in node.inputs if v is not None]
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0) or len(sides) != 2:
        return "batch axes are transposed"
    for i, name in enumerate(("transA", "transB")):
        rank = rank_of(sides[i])
        if node.attrs.get(name, 0) and rank is None:
            return f"the rank of '{sides[i].name}' is not known"
        if node.attrs.get(name, 0) and rank is not None and rank > 1:
            sides[i] = _turned(graph, node, sides[i], rank, turned)
    alpha = float(node.attrs.get("alpha", 1.0))
    if alpha == 1.0:
        put_instead(graph, node, "MatMul", sides)
        return ""
    value = part(graph, node, "MatMul", sides)
    factor = graph.constant(f"{node.name}/alpha", np.array(alpha, sides[0].dtype or np.float32))
    put_instead(graph, node, "Mul", [value, factor])
    return ""


def _turned(graph: LpGraph, node: Node, value: Value, rank: int, turned: dict[Value, Value]) -> Value:
    """The last two axes exchanged: of a constant at once, which is done with folding by then."""
    if not value.is_constant:
        perm = [*range(rank - 2), rank - 1, rank - 2]
        return part(graph, node, "Transpose", [value], {"perm": perm})
    if value not in turned:
        array = np.ascontiguousarray(value.values.swapaxes(-1, -2))
        turned[value] = graph.constant(f"{value.name}/transposed", array)
    return turned[value]


def _attention(graph: LpGraph, node: Node) -> str:
    """One product for queries, keys and values, and MultiHeadAttention behind it."""
    x, weight, bias, mask, scores = (input_at(node, i) for i in (0, 1, 2, 3, 5))
    if (
        node.attrs.get("do_rotary", 0)
        or any(input_at(node, i) is not None for i in _CACHES)
        or node.outputs[1:]
    ):
        return "it rotates, or keeps what came before"
    if weight is None or not weight.is_constant or len(weight.dims) != 2 or x is None:
        return "its weights are no constant matrix"
    if mask is not None and rank_of(mask) != 2 and not _of_lengths(mask, x):
        return "its mask is not one of keys"
    sizes = [int(n) for n in node.attrs.get("qkv_hidden_sizes", [])] or [weight.dims[1] // 3] * 3
    value = part(graph, node, "MatMul", [x, weight])
    if bias is not None:
        value = part(graph, node, "Add", [value, bias])
    read, options = [value], {"axis": -1, "split": sizes}
    if graph.opset >= 13:  # sizes became an input
        read, options = [value, graph.constant(f"{node.name}/sizes", np.array(sizes, np.int64))], {"axis": -1}
    parts = graph.add_node("Split", read, 3, name=f"{node.name}/Split", attrs=options, before=node)
    attrs = {k: node.attrs[k] for k in _OF_HEADS if k in node.attrs}
    inputs = [*parts.outputs, None, mask, scores]
    while inputs[-1] is None:
        inputs.pop()
    heads = graph.add_node(
        "MultiHeadAttention", inputs, name=node.name, attrs=attrs, domain=RUNTIME_DOMAIN, before=node
    )
    shape = output_at(node).shape or (None if x.shape is None else (*x.shape[:-1], sizes[2]))
    graph.set_type(output_at(heads), output_at(node).dtype or x.dtype, shape)
    graph.replace(node, [heads])
    return ""


def _of_lengths(mask: Value, x: Value) -> bool:
    """Whether a mask says how many keys each sample has: there are other forms of one axis, which are longer."""
    return mask.shape is not None and x.shape is not None and mask.shape == x.shape[:1] != (None,)


def _activation(
    graph: LpGraph, node: Node, name: str, given: list[Any]
) -> tuple[str, list[Value], dict[str, float]] | None:
    """Operator, further inputs and attributes of an activation; None where it is not known."""
    if name in _NO_PARAMETERS:
        return name, [], {}
    if name in _ALPHA:
        names = ("alpha", "beta")[: len(given)]
        return name, [], {"alpha": _ALPHA[name]} | dict(zip(names, map(float, given), strict=False))
    if name == "Clip" and len(given) == 2:
        kind = output_at(node).dtype or np.dtype(np.float32)
        ends = zip(("least", "most"), given, strict=True)
        return name, [graph.constant(f"{node.name}/{n}", np.array(v, kind)) for n, v in ends], {}
    return None
