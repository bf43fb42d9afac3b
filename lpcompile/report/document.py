"""Assemble `report.json`, schema 1, from what a compilation knows. [architecture 2]."""

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from lpcompile.analysis.arithmetic import COEFFICIENTS
from lpcompile.assignment.layer_facts import FLOAT_BITS, LayerFacts, LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import ace, acev2_by_class, energy45nm_pj, layer_operations
from lpcompile.assignment.mac_energy import ASSUMPTIONS as MAC_ASSUMPTIONS
from lpcompile.assignment.mac_energy import SHIFTER_RANGE, overhead_against_all_fixp4
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import FLOAT8_FORMAT, Kernel, LayerPlan, QuantPlan, WeightPlan
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


def layer_records(
    graph: LpGraph, weight_bytes: Mapping[str, int], *, dyadic: bool = False
) -> list[LayerRecord]:
    """Every layer with weights, quantised or not, recurrent ones and those in control-flow bodies too.

    Args:
        graph: float, with its plan.
        weight_bytes: of stored weights, by layer.
        dyadic: whether the target requantises so.
    """
    records = [_record(graph, n, weight_bytes, dyadic=dyadic) for n in graph.layers()]
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


def _record(graph: LpGraph, node: Node, weight_bytes: Mapping[str, int], *, dyadic: bool) -> LayerRecord:
    weight = node.inputs[1]
    assert weight is not None
    plan = _plan_of(graph, node)
    facts, held = layer_facts(node), held_format(graph, node)
    quantised = _is_quantised(plan)
    stored = weight_bytes.get(node.name, weight.nbytes) if quantised else weight.nbytes
    return LayerRecord(
        name=node.name,
        op=node.op,
        macs=facts.macs,
        weight_shape=weight.dims,
        weight_format=held.weight.format,
        weight_granularity=plan.weight.granularity if quantised else "",
        activation_format=_activation_format(graph, node),
        rounding=plan.weight.rounding if quantised else "",
        rank=0,
        sensitivity=plan.sensitivity,
        sqnr_db_local=plan.local_sqnr_db,
        sqnr_db_end=plan.end_sqnr_db,
        bits_per_weight=8 * stored / max(1, facts.weights),
        weight_bytes=stored,
        ace=ace(facts, held),
        acev2=sum(acev2_by_class(layer_operations(facts, held, dyadic=dyadic)).values()),
        reason=plan.reason or ("" if quantised else "stays float"),
    )


def held_format(graph: LpGraph, node: Node) -> LayerFormat:
    """How the plan holds a layer."""
    plan, weight = _plan_of(graph, node), node.inputs[1]
    assert weight is not None
    activation = _activation_format(graph, node)
    bits = (
        4
        if activation == "uint4"
        else 8
        if "int8" in activation or activation == FLOAT8_FORMAT
        else FLOAT_BITS.get(activation, 32)
    )
    if _is_quantised(plan):
        return LayerFormat(plan.weight, bits, plan.kernel)
    return LayerFormat(WeightPlan(str(weight.dtype)), bits)


def _plan_of(graph: LpGraph, node: Node) -> LayerPlan:
    return graph.plan.layers.get(node.name, LayerPlan(reason="the pipeline quantises nothing"))


def _is_quantised(plan: LayerPlan) -> bool:
    return plan.kernel is not Kernel.FLOAT and plan.tensor is not None


def _activation_format(graph: LpGraph, node: Node) -> str:
    kernel, x, weight = _plan_of(graph, node).kernel, node.inputs[0], node.inputs[1]
    assert weight is not None
    activation = graph.plan.activations.get(x.name) if x is not None else None
    if kernel in (Kernel.INTEGER, Kernel.FLOAT_OUT, Kernel.FLOAT8) and activation is not None:
        return activation.format
    return AT_RUN_TIME.get(kernel, str(weight.dtype))


def totals(records: Sequence[LayerRecord], graph: LpGraph, *, dyadic: bool = False) -> dict[str, Any]:
    """Sums over layers; biases, norms and embeddings stand apart.

    `acev2` and `energy45nm_pj` are those of layers with weights: products, scales, biases.
    """
    records = [r for r in records if r.op not in RECURRENT_OPS]  # counted where they are quantised
    sizes = [int(np.prod(r.weight_shape)) if r.weight_shape else 0 for r in records]
    weights = max(1, sum(sizes))
    layer_weights = {n.inputs[1].name for n in graph.layers() if n.inputs[1] is not None}
    layers = [(layer_facts(n), held_format(graph, n)) for n in graph.layers()]
    work = [layer_operations(facts, held, dyadic=dyadic) for facts, held in layers]
    return {
        "macs": sum(r.macs for r in records),
        "weight_bytes": sum(r.weight_bytes for r in records),
        "other_bytes": sum(c.nbytes for c in graph.constants() if c.name not in layer_weights),
        "bits_per_weight": 8 * sum(r.weight_bytes for r in records) / weights if records else 0.0,
        "ace": sum(r.ace for r in records),
        "acev2": sum(r.acev2 for r in records),
        "acev2_set": COEFFICIENTS,
        "energy45nm_pj": sum(map(energy45nm_pj, work)),
        "side_path_mac_fraction": 0.0,
        **_posits(layers),
    }


def _posits(layers: Sequence[tuple[LayerFacts, LayerFormat]]) -> dict[str, Any]:
    """Shares of posits in parameters and MACs; what their MACs take against fixp4, where there are any on integers."""
    share = overhead_against_all_fixp4(layers)
    found: dict[str, Any] = {"posit_fraction": share.of_parameters, "posit_mac_fraction": share.of_macs}
    if share.energy_overhead is not None:
        found["mac_energy_overhead"] = share.energy_overhead
        found["mac_energy_overhead_by_parameters"] = share.by_parameters
        others = (overhead_against_all_fixp4(layers, cells).energy_overhead for cells in SHIFTER_RANGE)
        found["mac_energy_overhead_range"] = list(others)  # shifters as cheap and as dear as published
    return found


def mac_assumptions(totals: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the figure of posit MACs rests on, where there is one."""
    return [dict(a) for a in MAC_ASSUMPTIONS] if "mac_energy_overhead" in totals else []


def float8_assumptions(plan: QuantPlan) -> list[dict[str, str]]:
    """What stands for FP8 arithmetic where layers are planned in it."""
    if all(layer.kernel is not Kernel.FLOAT8 for layer in plan.layers.values()):
        return []
    what = (
        "layers in FP8: weights and inputs are E4M3 numbers in float32 tensors, products exact, sums in float32; no "
        "time of FP8 units is in the figures; on CPUs integers are faster: recipe w4a8"
    )
    return [{"what": what, "source": "gafni2025"}]


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
