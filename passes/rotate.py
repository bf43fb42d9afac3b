"""Rotate the residual streams of transformers, so that no channel of them is much larger than the others.

Q goes into what writes a stream, Q^T into what reads it; gains and shifts of norms go into their readers first. Norms
that subtract the mean stay as they are, since Q keeps the direction of all ones: Q 1 = 1. Nothing is added that has to
be computed at run time. [ashkboos2024, sec. 4]
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lpcompile.analysis.hadamard import rotation
from lpcompile.ir.facts import Fact
from lpcompile.ir.graph import LpGraph
from lpcompile.ir.node import Node
from lpcompile.ir.residual_stream import Stream, residual_streams
from lpcompile.ir.value import Value
from lpcompile.passes.channel_affine import F64, ChannelAffine
from lpcompile.passes.constant_inputs import is_float, output_at
from lpcompile.passes.layer_constants import (
    absorb_after_matmul,
    absorb_before,
    layer_and_row,
    weight_obstacle,
)
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport

SUFFIX = "/rotated"


@dataclass(frozen=True, slots=True)
class Rotate(Pass):
    """Residual streams rotated by a random Hadamard matrix, folded into weights; each network is rotated once."""

    name: ClassVar[str] = "rotate"
    summary: ClassVar[str] = "residual streams of transformers rotated, folded into weights"
    takes: ClassVar[tuple[str, ...]] = ("seed",)
    establishes: ClassVar[frozenset[Fact]] = frozenset({Fact.STREAMS_ROTATED})
    invalidates: ClassVar[frozenset[Fact]] = frozenset({Fact.CALIBRATED})

    def run(self, graph: LpGraph, ctx: PassContext) -> PassReport:
        """Rotate every stream that folds."""
        report = PassReport(self.name)
        if Fact.STREAMS_ROTATED in graph.facts:
            return report
        if Fact.SHAPES not in graph.facts:
            graph.infer_shapes()
        for stream in residual_streams(graph):
            if reason := stream.reason or _obstacle(stream):
                report.skip(next(iter(stream.tensors)), reason)
                continue
            for norm, readers in stream.norms.items():
                _fold_norm(graph, norm, readers)
        rng = ctx.rng
        for stream in residual_streams(
            graph
        ):  # once more: biases that were made for the norms may write to them
            if stream.reason or _obstacle(stream):
                continue
            start = next(iter(stream.tensors))
            _rotate(graph, stream, rotation(stream.width, rng, keeps_mean=stream.centred))
            report.change(
                start,
                f"stream of {stream.width} channels rotated: {len(stream.writers) + len(stream.tables)} writers,"
                f" {len(stream.norms)} norms, {sum(map(len, stream.norms.values())) + len(stream.readers)} readers",
            )
        return report


def _obstacle(stream: Stream) -> str:
    """Why constants of a stream cannot be replaced; empty where they can."""
    layers = [*stream.writers, *stream.readers, *(n for held in stream.norms.values() for n in held)]
    for layer in layers:
        if (reason := weight_obstacle(layer)) is not None:
            return reason
    constants = [n.inputs[0] for n in stream.tables] + [n.inputs[i] for n, i in stream.terms.items()]
    constants += [v for n in stream.norms for v in n.inputs[1:3]]
    if any(v is not None and not is_float(v) for v in constants):
        return "a constant of it is not of floats"
    return ""


def _fold_norm(graph: LpGraph, norm: Node, readers: list[Node]) -> None:
    """Let the readers of a norm scale and shift for it."""
    scale, shift = (*norm.inputs[1:3], None, None)[:2]
    assert scale is not None
    y = output_at(norm)
    gain = scale.values.astype(np.float64)
    added = np.zeros_like(gain) if shift is None else shift.values.astype(np.float64)
    for node in dict.fromkeys(readers):
        w = node.inputs[1]
        assert w is not None
        if node.op == "MatMul" and added.any():
            affine = ChannelAffine(output_at(node), np.ones(w.dims[1]), added @ w.values.astype(np.float64))
            found = absorb_after_matmul(graph, node, _row(node) or _empty_row(graph, node), affine)
            if isinstance(found, str):
                raise ValueError(found)
        kept = added if node.op == "Gemm" else np.zeros_like(added)
        if (reason := absorb_before(graph, node, ChannelAffine(y, gain, kept))) is not None:
            raise ValueError(reason)
    norm.set_input(1, graph.constant(f"{norm.name}/scale", np.ones_like(gain).astype(scale.dtype)))
    if shift is not None:
        norm.set_input(2, graph.constant(f"{norm.name}/shift", np.zeros_like(added).astype(shift.dtype)))


def _row(matmul: Node) -> Node | None:
    """The Add of a constant that alone reads a MatMul and can hold its bias."""
    y = output_at(matmul)
    readers = y.consumers
    if len(readers) != 1 or y.is_output or y.used_in_subgraph or readers[0].op != "Add":
        return None
    layer, row = layer_and_row(output_at(readers[0]))
    held = None if row is None else next((v for v in row.inputs if v is not None and v.is_constant), None)
    fits = held is not None and held.dims and held.values.size == held.dims[-1]
    return row if layer == matmul and fits else None


def _empty_row(graph: LpGraph, matmul: Node) -> Node:
    """An Add of zeros between a MatMul and whoever reads it."""
    y, w = output_at(matmul), matmul.inputs[1]
    assert w is not None
    zeros = graph.constant(f"{matmul.name}/bias", np.zeros_like(w.values[0]))
    row = graph.add_node("Add", [zeros, zeros], name=f"{matmul.name}/bias")
    graph.set_type(output_at(row), y.dtype, y.shape)
    graph.replace_uses(y, output_at(row))
    row.set_input(0, output_at(matmul))
    return row


def _rotate(graph: LpGraph, stream: Stream, q: F64) -> None:
    for node in stream.tables:
        _turn(graph, node, 0, q)
    for node, i in stream.terms.items():
        _turn(graph, node, i, q)
    for node in stream.writers:
        w, b = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert w is not None
        rows = w.values.astype(np.float64)
        turned = q.T @ rows if node.attrs.get("transB", 0) else rows @ q
        bias = None if b is None else np.broadcast_to(b.values.astype(np.float64), (1, stream.width)) @ q
        graph.set_weights(
            node, _as(turned, w), None if bias is None or b is None else _as(bias.reshape(-1), b)
        )
    for node in dict.fromkeys([*stream.readers, *(n for held in stream.norms.values() for n in held)]):
        w = node.inputs[1]
        assert w is not None
        rows = w.values.astype(np.float64)
        graph.set_weights(node, _as(rows @ q if node.attrs.get("transB", 0) else q.T @ rows, w), None)
    for value in [*stream.tensors.values(), *(output_at(n) for n in stream.norms)]:
        graph.rename(value, value.name + SUFFIX)  # under its old name a reader would look for the old numbers


def _turn(graph: LpGraph, node: Node, i: int, q: F64) -> None:
    value = node.inputs[i]
    assert value is not None
    turned = value.values.astype(np.float64) @ q
    node.set_input(i, graph.constant(f"{node.name}/rotated", _as(turned, value)))


def _as(array: F64, like: Value) -> np.ndarray:
    return array.astype(like.dtype)
