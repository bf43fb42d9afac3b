"""`lpcompile inspect MODEL`: what is in a model, before or after compiling."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpcompile.cli._options import Shapes, common_options, input_shape_option, model_file
from lpcompile.cli._output import Output
from lpcompile.counted import counted

if TYPE_CHECKING:
    from lpcompile.ir.graph import LpGraph
    from lpcompile.ir.node import Node

OPS_SHOWN = 12


@click.command(short_help="Layers, shapes, formats and sizes of a model.")
@click.argument("model")
@input_shape_option
@common_options
def inspect(output: Output, model: str, input_shapes: Shapes) -> None:
    """Show what is in MODEL: a file, or a folder that a compiled model was written to."""
    path = model_file(model)

    from lpcompile.analysis.inputs import InputSpec, check_names, concrete_shape
    from lpcompile.cli._layers import as_written

    graph = as_written(path)
    specs = {v.name: InputSpec(v.name, v.dtype, v.shape) for v in graph.inputs if v.dtype is not None}
    check_names(input_shapes, list(specs.values()))
    graph.infer_shapes({name: concrete_shape(specs[name], input_shapes) for name in input_shapes})
    document = described(graph, path)
    output.answer(document, text_of(document))


def described(graph: "LpGraph", path: Path) -> dict[str, Any]:
    """Everything that `inspect` shows, as data."""
    from lpcompile.cli._layers import layer_rows

    layers = [row.document() for row in layer_rows(graph)]
    return {
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "opset": dict(sorted(graph.opset_imports.items())),
        "ir_version": graph.ir_version,
        "inputs": [_tensor(v) for v in graph.inputs],
        "outputs": [_tensor(v) for v in graph.outputs],
        "layers": layers,
        "tables": [_looked_up(n) for n in graph.nodes("Gather") if _is_look_up(n)],
        "ops": dict(Counter(graph.ops()).most_common()),
        "totals": {
            "nodes": len(graph.nodes()),
            "weight_bytes": sum(row["weight_bytes"] for row in layers),
            "constant_bytes": sum(v.nbytes for v in graph.constants()),
            "macs": sum(row["macs"] or 0 for row in layers),
        },
        "metadata": dict(graph.metadata),
        "notes": list(graph.notes),
    }


def text_of(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    from lpcompile.report.table import bytes_text, table

    opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in document["opset"].items())
    totals, ops = document["totals"], list(document["ops"].items())
    size = bytes_text(document["file_bytes"])
    lines = [
        f"{document['path']}: {size}, IR {document['ir_version']}, opset {opset}",
        *(f"input   {_tensor_text(t)}" for t in document["inputs"]),
        *(f"output  {_tensor_text(t)}" for t in document["outputs"]),
        f"nodes   {totals['nodes']}: " + ", ".join(f"{n} {op}" for op, n in ops[:OPS_SHOWN])
        + (f", {sum(n for _, n in ops[OPS_SHOWN:])} others" if len(ops) > OPS_SHOWN else ""),
        f"weights {bytes_text(totals['weight_bytes'])} in {counted(len(document['layers']), 'layer')}, "
        f"{totals['macs']:,} MACs; all constants {bytes_text(totals['constant_bytes'])}",
    ]  # fmt: skip
    if document["layers"]:
        header = ("layer", "op", "weight", "format", "granularity", "MACs", "bytes")
        keys = ("name", "op", "weight_shape", "format", "granularity", "macs", "weight_bytes")
        rows = [[_dims(r[k]) if k == "weight_shape" else r[k] for k in keys] for r in document["layers"]]
        lines += ["", table(header, rows)]
    if document["tables"]:
        rows = [[t["name"], _dims(t["shape"]), t["dtype"], t["bytes"]] for t in document["tables"]]
        lines += ["", table(("rows looked up by", "table", "type", "bytes"), rows)]
    lines += [f"note: {note}" for note in document["notes"]]
    return "\n".join(lines)


def _is_look_up(node: "Node") -> bool:
    """Whether a Gather picks rows of a constant by what it is given."""
    table, indices = node.inputs[0], node.inputs[1]
    if node.domain or table is None or indices is None or indices.is_constant or not table.is_constant:
        return False
    axis = int(node.attrs.get("axis", 0))
    return len(table.dims) > 1 and math.prod(table.dims) > table.dims[axis]


def _looked_up(node: "Node") -> dict[str, Any]:
    table = node.inputs[0]
    assert table is not None
    return {**_tensor(table), "name": node.name, "table": table.name, "bytes": table.nbytes}


def _tensor(value: Any) -> dict[str, Any]:
    return {
        "name": value.name,
        "dtype": None if value.dtype is None else str(value.dtype),
        "shape": None if value.shape is None else list(value.shape),
    }


def _tensor_text(tensor: dict[str, Any]) -> str:
    shape = "unknown rank" if tensor["shape"] is None else _dims(tensor["shape"])
    return f"{tensor['name']}  {tensor['dtype'] or 'no tensor'}  {shape}"


def _dims(shape: Any) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"
