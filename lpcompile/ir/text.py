"""The textual form of a model: what tests and reviews read."""

import onnx
from onnx import ModelProto

from lpcompile.errors import ModelError
from lpcompile.ir import export
from lpcompile.ir.graph import LpGraph

_HINT = "the syntax is that of onnx.parser"


def to_text(graph: LpGraph, *, max_elements: int = 16) -> str:
    """Print a graph; initialisers with more elements appear as `name: type[dims], N bytes` below it.

    A text without such lines can be parsed again.
    """
    model, large = export.without_large_constants(graph, lambda w: w.array().size > max_elements)
    lines = [f"# {n}: {w.dtype}[{','.join(map(str, w.shape))}], {w.nbytes} bytes" for n, w in large.items()]
    return "\n".join([onnx.printer.to_text(model).rstrip(), *lines, ""])


def from_text(text: str) -> LpGraph:
    """Parse a model in the syntax of onnx.parser.

    Raises:
        ModelError: the text is no model; the message holds the parser's first line.
    """
    return LpGraph.from_proto(proto_from_text(text))


def proto_from_text(text: str) -> ModelProto:
    """Parse a model in the syntax of onnx.parser into a proto."""
    try:
        return onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        detail = str(error.args[0] if error.args else error)
        raise ModelError(f"not a model in text form: {detail}", hint=_HINT) from error
