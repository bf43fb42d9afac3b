"""Assemble `report.json`, schema 1, from what a compilation knows. [architecture 2]."""

import functools
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np

from lpcompile.accounts.entries import Account
from lpcompile.analysis.arithmetic import COEFFICIENTS
from lpcompile.assignment.layer_facts import LayerFacts, LayerFormat, layer_facts
from lpcompile.assignment.layer_operations import ace, acev2_by_class, layer_operations
from lpcompile.assignment.mac_energy import ASSUMPTIONS as MAC_ASSUMPTIONS
from lpcompile.assignment.mac_energy import SHIFTER_RANGE, overhead_against_all_fixp4
from lpcompile.assignment.planned_format import (
    NAMES_AT_RUN_TIME,
    activation_format,
    held_format,
    is_quantised,
    layer_plan,
)
from lpcompile.assignment.requantisation import requantisation_of, targets_own
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.plan import Kernel, LayerPlan, QuantPlan, RecurrentPlan
from lpcompile.quant.error import sqnr_db
from lpcompile.records import LayerRecord, PassReport, TableRecord
from lpcompile.version import VERSION

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT_OPS = ("LSTM", "GRU", "RNN")
KEPT = "recurrent layers keep floats"
NOTHING: Mapping[str, str] = MappingProxyType({})
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
    graph: LpGraph,
    weight_bytes: Mapping[str, int],
    *,
    dyadic: bool = False,
    skipped: Mapping[str, str] = NOTHING,
) -> list[LayerRecord]:
    """Every layer with weights, quantised or not, recurrent ones and those in control-flow bodies too.

    Args:
        graph: float, with its plan.
        weight_bytes: of stored weights, by layer.
        dyadic: whether the target requantises so.
        skipped: why recurrent layers keep floats, by name, where a pass said so.
    """
    records = [_record(graph, n, weight_bytes, dyadic=dyadic) for n in graph.layers()]
    known = {r.name for r in records}
    for node in graph.walk():
        if node.name in known:
            continue
        if isinstance(node, Node):
            weight = node.inputs[1] if node.op in RECURRENT_OPS and len(node.inputs) > 1 else None
            if weight is not None and weight.is_constant:
                records.append(
                    _recurrent_record(node, graph.plan.recurrent.get(node.name), skipped.get(node.name, KEPT))
                )
        elif node.op in LAYER_OPS:
            reason = "inside a control-flow body, which is left intact"
            records.append(_float_record(node.name, node.op, (), 0, reason))
    return records


def _recurrent_record(node: Node, plan: RecurrentPlan | None, reason: str) -> LayerRecord:
    """W and R together; their shape is that of W."""
    weights = [v for v in node.inputs[1:3] if v is not None and v.is_constant]
    count, floats = sum(int(np.prod(v.dims)) for v in weights), sum(v.nbytes for v in weights)
    if plan is None or plan.weights is None:
        return _float_record(node.name, node.op, weights[0].dims, floats, reason)
    stored = sum(table.nbytes for table in plan.weights)
    run_time = NAMES_AT_RUN_TIME.get(plan.kernel, "float32")
    record = _float_record(node.name, node.op, weights[0].dims, stored, plan.reason)
    return replace(
        record,
        weight_format="int8",
        weight_granularity="channel",
        activation_format=run_time,
        rounding="nearest",
        bits_per_weight=8 * stored / max(1, count),
    )


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
    plan = layer_plan(graph, node)
    facts, held = layer_facts(node), held_format(graph, node)
    scaled = requantisation_of(graph.plan, node.name, targets_own(dyadic=dyadic))
    quantised = is_quantised(plan)
    stored = weight_bytes.get(node.name, weight.nbytes) if quantised else weight.nbytes
    return LayerRecord(
        name=node.name,
        op=node.op,
        macs=facts.macs,
        weight_shape=weight.dims,
        weight_format=held.weight.format,
        weight_granularity=plan.weight.granularity if quantised else "",
        activation_format=activation_format(graph, node),
        rounding=plan.weight.rounding if quantised else "",
        rank=_rank(plan),
        sensitivity=plan.sensitivity,
        sqnr_db_local=plan.local_sqnr_db,
        sqnr_db_end=plan.end_sqnr_db,
        bits_per_weight=8 * stored / max(1, facts.weights),
        weight_bytes=stored,
        ace=ace(facts, held),
        acev2=sum(acev2_by_class(layer_operations(facts, held, scaled)).values()),
        reason=plan.reason or ("" if quantised else "stays float"),
    )


def totals(records: Sequence[LayerRecord], graph: LpGraph, account: Account) -> dict[str, Any]:
    """Sums over layers; biases, norms and embeddings stand apart.

    `weight_bytes` counts what layers share once, `bits_per_weight` at each of them, as the budget does.
    `acev2` and `energy45nm_pj` are those of all nodes, `acev2_layers` is that of layers with weights: products, scales,
    biases, as a budget bounds it.

    Args:
        records: of the layers.
        graph: float, with its plan.
        account: of the plan.
    """
    records = [r for r in records if r.op not in RECURRENT_OPS]  # counted where they are quantised
    sizes = [int(np.prod(r.weight_shape)) if r.weight_shape else 0 for r in records]
    weights = max(1, sum(sizes))
    layer_weights = {n.inputs[1].name for n in graph.layers() if n.inputs[1] is not None}
    layers = [(layer_facts(n), held_format(graph, n)) for n in graph.layers()]
    return {
        "macs": sum(r.macs for r in records),
        "weight_bytes": _held_bytes(records, graph),
        "other_bytes": _other_bytes(graph, layer_weights),
        "bits_per_weight": 8 * sum(r.weight_bytes for r in records) / weights if records else 0.0,
        "ace": sum(r.ace for r in records),
        "acev2": account.acev2(),
        "acev2_set": COEFFICIENTS,
        "acev2_layers": sum(r.acev2 for r in records),
        "energy45nm_pj": account.energy45nm_pj,
        "side_path_mac_fraction": _side_path_macs(graph) / max(1, sum(r.macs for r in records)),
        **_posits(layers),
    }


def _held_bytes(records: Sequence[LayerRecord], graph: LpGraph) -> int:
    """Of stored weights; codes that several layers share count once."""
    copies = {}
    for node in graph.layers():
        plan = layer_plan(graph, node)
        held = plan.codes_sha256 if is_quantised(plan) else "float"
        copies[node.name] = (node.inputs[1], held or node.name)
    first = {copies.get(r.name, r.name): r.weight_bytes for r in reversed(records)}
    return sum(first.values())


def table_records(graph: LpGraph) -> list[TableRecord]:
    """Every planned table, by the first Gather that looks up its rows: the file holds it once."""
    found, seen = [], set()
    for name, plan in graph.plan.tables.items():
        table = graph.node(name).inputs[0]
        assert table is not None
        assert plan.table is not None
        if (table.name, plan.codes_sha256) in seen:
            continue
        seen.add((table.name, plan.codes_sha256))
        values = table.values
        db = sqnr_db(values, plan.table.values)
        lost = db if np.isfinite(db) else None
        found.append(
            TableRecord(name, table.dims, plan.format, plan.table.nbytes, values.nbytes, lost, plan.reason)
        )
    return found


def _other_bytes(graph: LpGraph, layer_weights: Collection[str]) -> int:
    """What constants take that no layer multiplies by, tables and recurrent layers as they are stored."""
    stored = {}
    for name, plan in graph.plan.tables.items():
        table = graph.node(name).inputs[0]
        if table is not None and plan.table is not None:
            stored[table.name] = plan.table.nbytes
    for name, recurrent in graph.plan.recurrent.items():
        for at, weights in enumerate(recurrent.weights or (), 1):
            if (constant := graph.node(name).inputs[at]) is not None:
                stored[constant.name] = weights.nbytes
    floats = sum(c.nbytes for c in graph.constants() if c.name not in {*layer_weights, *stored})
    return floats + sum(stored.values())


def _rank(plan: LayerPlan) -> int:
    return 0 if plan.tensor is None or plan.tensor.side is None else plan.tensor.side.rank


def _side_path_macs(graph: LpGraph) -> float:
    """Products that side paths would take beside their layers; merged ones take none when the model runs."""
    found = 0.0
    for node in graph.layers():
        facts, rank = layer_facts(node), _rank(layer_plan(graph, node))
        found += facts.macs * rank * sum(facts.rows) / max(1, facts.weights)
    return found


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
