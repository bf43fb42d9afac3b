"""Assemble `report.json`, schema 1, from what a compilation knows. [architecture 2]."""

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from lpcompile.analysis.macs import macs_of_call
from lpcompile.formats.base import resolve
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, LayerPlan
from lpcompile.records import LayerRecord, PassReport
from lpcompile.version import VERSION

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT_OPS = ("LSTM", "GRU", "RNN")
AT_RUN_TIME = {Kernel.DYNAMIC: "uint8 (dynamic)", Kernel.NBITS: "int8 (dynamic, blocks of 32)"}
PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "networkx")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of everything whose change may change a result."""
    return {
        "lpcompile": VERSION,
        "python": platform.python_version(),
        **{p: version(p) for p in PACKAGES},
    }


def layer_records(graph: LpGraph, weight_bytes: Mapping[str, int]) -> list[LayerRecord]:
    """Every layer with weights, quantised or not, recurrent ones and those in control-flow bodies too."""
    records = [_record(graph, n, weight_bytes) for n in graph.layers()]
    known = {r.name for r in records}
    for node in graph.walk():
        if node.name in known:
            continue
        if isinstance(node, Node):
            weight = node.inputs[1] if node.op in RECURRENT_OPS and len(node.inputs) > 1 else None
            if weight is not None and weight.is_constant:
                shape, held = weight.dims, weight.nbytes
                records.append(_float_record(node.name, node.op, shape, held, "recurrent layers keep floats"))
        elif node.op in LAYER_OPS:
            reason = "inside a control-flow body, which is left intact"
            records.append(_float_record(node.name, node.op, (), 0, reason))
    return records


def _float_record(name: str, op: str, shape: tuple[int, ...], held: int, reason: str) -> LayerRecord:
    return LayerRecord(
        name=name,
        op=op,
        macs=0,
        weight_shape=shape,
        weight_format="float32",
        weight_granularity="",
        activation_format="float32",
        rounding="",
        rank=0,
        sensitivity=None,
        sqnr_db_local=None,
        sqnr_db_end=None,
        bits_per_weight=32.0,
        weight_bytes=held,
        ace=0.0,
        acev2=0.0,
        reason=reason,
    )


def _record(graph: LpGraph, node: Node, weight_bytes: Mapping[str, int]) -> LayerRecord:
    weight, x = node.inputs[1], node.inputs[0]
    assert weight is not None
    plan = graph.plan.layers.get(node.name, LayerPlan(reason="the pipeline quantises nothing"))
    quantised = plan.kernel is not Kernel.FLOAT and plan.tensor is not None
    shape = weight.dims
    size = int(np.prod(shape))
    activation = graph.plan.activations.get(x.name) if x is not None else None
    if plan.kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT) and activation is not None:
        activation_format = activation.format
    else:
        activation_format = AT_RUN_TIME.get(plan.kernel, str(weight.dtype))
    stored = weight_bytes.get(node.name, weight.nbytes) if quantised else weight.nbytes
    count = macs_of_call(node) or 0
    weight_bits = resolve(plan.weight.format).bits if quantised else 8 * weight.nbytes // max(1, size)
    activation_bits = 4 if activation_format == "uint4" else 8 if "int8" in activation_format else 32
    return LayerRecord(
        name=node.name,
        op=node.op,
        macs=count,
        weight_shape=shape,
        weight_format=plan.weight.format if quantised else str(weight.dtype),
        weight_granularity=plan.weight.granularity if quantised else "",
        activation_format=activation_format,
        rounding=plan.weight.rounding if quantised else "",
        rank=0,
        sensitivity=plan.sensitivity,
        sqnr_db_local=plan.local_sqnr_db,
        sqnr_db_end=plan.end_sqnr_db,
        bits_per_weight=8 * stored / max(1, size),
        weight_bytes=stored,
        ace=float(count * weight_bits * activation_bits),
        acev2=float(count * weight_bits * activation_bits),
        reason=plan.reason or ("" if quantised else "stays float"),
    )


def totals(records: Sequence[LayerRecord], graph: LpGraph) -> dict[str, Any]:
    """Sums over layers; biases, norms and embeddings stand apart."""
    records = [r for r in records if r.op not in RECURRENT_OPS]  # counted where they are quantised
    sizes = [int(np.prod(r.weight_shape)) if r.weight_shape else 0 for r in records]
    weights = max(1, sum(sizes))
    layer_weights = {n.inputs[1].name for n in graph.layers() if n.inputs[1] is not None}
    posit = sum(s for s, r in zip(sizes, records, strict=True) if r.weight_format.startswith("posit"))
    return {
        "macs": sum(r.macs for r in records),
        "weight_bytes": sum(r.weight_bytes for r in records),
        "other_bytes": sum(c.nbytes for c in graph.constants() if c.name not in layer_weights),
        "bits_per_weight": 8 * sum(r.weight_bytes for r in records) / weights if records else 0.0,
        "ace": sum(r.ace for r in records),
        "acev2": sum(r.acev2 for r in records),
        "posit_fraction": posit / weights,
        "side_path_mac_fraction": 0.0,
    }


def pass_documents(reports: Sequence[PassReport]) -> list[dict[str, Any]]:
    """The passes as the schema has them."""
    return [asdict(r) for r in reports]


def model_document(graph: LpGraph, path: str | None, sha256: str) -> dict[str, Any]:
    """The input model."""

    def interface(values: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"name": v.name, "dtype": str(v.dtype), "shape": None if v.shape is None else list(v.shape)}
            for v in values
        ]

    return {
        "path": path,
        "sha256": sha256,
        "opset": graph.opset,
        "inputs": interface(graph.inputs),
        "outputs": interface(graph.outputs),
    }


def merged(report: dict[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the entries of another; lists are appended to, tables take further keys.

    `layer_energy_pj` goes to the layers themselves.
    """
    by_layer = further.get("layer_energy_pj", {})
    for layer in report.get("layers", ()):
        if layer["name"] in by_layer:
            layer["energy_pj"] = by_layer[layer["name"]]
    for key, value in further.items():
        if key == "layer_energy_pj":
            continue
        known = report.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            report[key] = {**known, **value}
        elif isinstance(known, list):
            report[key] = [*known, *value]
        else:
            report[key] = value
    return report
