"""What every rewrite pass must show: outputs agree, and a second run finds nothing."""

import onnx
from onnx import ModelProto

from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import Pass, PassContext
from lpcompile.records import PassReport
from tests.support import Array, assert_same_outputs, parse_model, run_model

CONTEXT = PassContext(run=lambda proto, feeds: run_model(proto, feeds))


def rewrite(
    what: Pass,
    model: ModelProto | str,
    *,
    opset: int = 17,
    rtol: float = 0.0,
    feeds: dict[str, Array] | None = None,
) -> tuple[LpGraph, PassReport]:
    """Run a pass twice on a model: outputs agree within `rtol`, the second run changes nothing."""
    before = parse_model(model, opset=opset) if isinstance(model, str) else model
    twin = ModelProto()
    twin.CopyFrom(before)
    graph = LpGraph.from_proto(twin)
    report = what.run(graph, CONTEXT)
    after = graph.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(before, after, rtol, feeds=feeds)
    again = what.run(graph, CONTEXT)
    assert again.changes == []
    assert again.skips == report.skips
    return graph, report


def left_alone(
    what: Pass, model: ModelProto | str, *, opset: int = 17, feeds: dict[str, Array] | None = None
) -> list[str]:
    """Skip reasons of a pass that must not change this model."""
    _, report = rewrite(what, model, opset=opset, feeds=feeds)
    assert report.changes == []
    return [skip.reason for skip in report.skips]
