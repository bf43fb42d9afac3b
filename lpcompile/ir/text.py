"""The textual form of a model: what tests and reviews read."""

import onnx
from onnx import ModelProto, TensorProto

from lpcompile.errors import ModelError
from lpcompile.ir import export
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.weights import Weights

_HINT = "the syntax is that of onnx.parser"


def to_text(graph: LpGraph, *, max_elements: int = 16) -> str:
    """Print a graph; initialisers with more elements appear as `name: type[dims], N bytes` below it.

    A text without such lines can be parsed again.
    """
    large: list[tuple[str, Weights]] = []

    def write(target: TensorProto, name: str, weights: Weights) -> None:
        target.name = name
        if weights.array().size <= max_elements:
            weights.write_to(target, name)
        else:
            large.append((name, weights))

    model = export.model_proto(graph, write)
    names = {name for name, _ in large}
    kept = [t for t in model.graph.initializer if t.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    lines = [f"# {n}: {w.dtype}[{','.join(map(str, w.shape))}], {w.nbytes} bytes" for n, w in large]
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
