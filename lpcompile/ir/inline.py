"""Calls of `lpcompile` functions replaced by their bodies."""

import onnx
from onnx import helper, inliner

from lpcompile.ir.function import DOMAIN


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with every local function replaced by its body.

    The node that gives a call's result takes over the call's name and metadata.
    """
    calls = {n.output[0]: n for n in proto.graph.node if n.domain == DOMAIN}
    flat = inliner.inline_local_functions(proto)
    for node in flat.graph.node:
        call = calls.get(node.output[0]) if node.output else None
        if call is not None:
            node.name = call.name
            node.metadata_props.extend(call.metadata_props)
    domains = {n.domain for n in flat.graph.node}
    imports = [o for o in flat.opset_import if not o.domain or o.domain in domains]
    del flat.opset_import[:]
    flat.opset_import.extend(helper.make_opsetid(o.domain, o.version) for o in imports)
    return flat
