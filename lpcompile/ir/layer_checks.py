"""A check of layers whose constants contradict each other: no runtime computes them, and some load them nonetheless."""

from lpcompile.errors import ModelError
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.value import Value

_HINT = "export the model again; onnx.checker.check_model tells more"
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def check_layers(graph: LpGraph) -> None:
    """Check that ranks and sizes of constant weights, biases and norms of each node fit together.

    Raises:
        ModelError: names the node and what does not fit.
    """
    for node in graph.layers():
        _check_layer(node)
    for node in graph.nodes("BatchNormalization"):
        sizes = {v.dims for v in node.inputs[1:5] if v is not None and v.is_constant}
        if len(sizes) > 1 or any(len(s) != 1 for s in sizes):
            raise ModelError("its four parameters are not of one length", where=node.name, hint=_HINT)


def _check_layer(node: Node) -> None:
    weight = node.inputs[1]
    assert weight is not None
    dims = weight.dims
    if node.op in _CONVOLUTIONS:
        kernel, group = node.attrs.get("kernel_shape"), node.attrs.get("group", 1)
        if not isinstance(group, int):
            raise ModelError("attribute 'group' is no number", where=node.name, hint=_HINT)
        if len(dims) < 3 or (kernel is not None and list(kernel) != list(dims[2:])):
            raise ModelError(
                f"weight {weight.name!r} of {list(dims)} does not fit the kernel", where=node.name, hint=_HINT
            )
        if group < 1 or dims[0] % group:
            raise ModelError(f"{dims[0]} channels in {group} groups", where=node.name, hint=_HINT)
        channels = dims[0] if node.op == "Conv" else dims[1] * group
    elif node.op == "Gemm":
        if len(dims) != 2:
            raise ModelError(
                f"weight {weight.name!r} of {list(dims)} is no matrix", where=node.name, hint=_HINT
            )
        channels = dims[0 if node.attrs.get("transB", 0) else 1]
    else:
        return
    _check_bias(node, node.inputs[2] if len(node.inputs) > 2 else None, channels)


def _check_bias(node: Node, bias: Value | None, channels: int) -> None:
    if bias is None or not bias.is_constant:
        return
    dims = bias.dims
    fits = dims == (channels,) if node.op in _CONVOLUTIONS else (dims[-1:] or (1,))[0] in (1, channels)
    if not fits or len(dims) > 2:
        raise ModelError(
            f"bias {bias.name!r} of {list(dims)} does not fit {channels} channels",
            where=node.name,
            hint=_HINT,
        )
