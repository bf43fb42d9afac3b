"""A small model with calibration calls taken through the plan passes, and what comes out of ONNX Runtime."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from lpcompile.analysis.calibration import Calibration
from lpcompile.ir.graph import LpGraph
from lpcompile.pipeline import PassContext, Pipeline
from lpcompile.plan import LayerPlan
from lpcompile.quant.error import sqnr_db
from lpcompile.records import PassReport
from lpcompile.registry import pass_class, split_pipeline, target
from lpcompile.runtime.execution import observer
from lpcompile.runtime.patched import PatchedModel
from lpcompile.target import Options
from tests.support import parse_model, random_feeds, run_model

GRAPH_PASSES = "canonicalize,fold-constants,fold-batchnorm"
NO_COSTS = "quantize-activations{cost=none}"  # kernels by ability, not by the recorded table
PLAN_PASSES = f"{NO_COSTS},quantize-weights"

RESIDUAL = """m (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,1,1] w1, float[8] b1, float[8,8,3,3] w2, float[8] b2, float[8,8,1,1] w3, float[8] b3,
 float[5,8] w4, float[5] b4> {
    a = Conv (x, w1, b1)  r = Relu (a)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    c = Conv <pads = [1, 1, 1, 1]> (p, w2, b2)  s = Relu (c)
    d = Conv (s, w3, b3)  t = Relu (d)
    e = Add (p, t)  u = Relu (e)
    g = GlobalAveragePool (u)  f = Flatten (g)  y = Gemm <transB = 1> (f, w4, b4)
}"""


@dataclass
class Quantized:
    """A graph after its passes."""

    original: ModelProto
    graph: LpGraph
    context: PassContext
    reports: dict[str, PassReport]

    @property
    def layers(self) -> dict[str, LayerPlan]:
        return dict(self.graph.plan.layers)

    def layer(self, op: str, index: int = 0) -> LayerPlan:
        """The plan of the index-th layer with this operator."""
        return self.graph.plan.layers[[n.name for n in self.graph.layers() if n.op == op][index]]

    def emitted(self, form: str = "functions") -> ModelProto:
        return target("ort").emit(self.graph, Options(emit=form)).model

    def sqnr_db(self, *, seed: int = 1, form: str = "functions") -> float:
        """Worst output SQNR against the original, on feeds that were not among the calibration calls."""
        feeds = random_feeds(self.original, seed=10_000 + seed)
        wanted, found = run_model(self.original, feeds), run_model(self.emitted(form), feeds)
        assert list(found) == list(wanted)
        return min(sqnr_db(wanted[k], found[k]) for k in wanted)

    def skip_reason(self, of: str, node: str) -> str:
        """Why a pass left a node alone; of a node by name or operator."""
        names = {node, *(n.name for n in self.graph.nodes(node))}
        return next(s.reason for s in self.reports[of].skips if s.node in names)

    def rerun(self, text: str) -> dict[str, PassReport]:
        """Run further passes on the same graph."""
        return _run(self.graph, self.context, text)


def context(model: ModelProto, calls: int = 40) -> PassContext:
    """What plan passes need, with random calibration calls; none: uncalibrated."""
    samples = Calibration([random_feeds(model, seed=i) for i in range(calls)]) if calls else None
    return PassContext(
        run=lambda proto, feeds: run_model(proto, feeds),
        observe=lambda graph, tensors: observer(graph, tensors, threads=1),
        target=target("ort"),
        calibration=samples,
        open_patched=lambda graph, names, outputs: PatchedModel(graph, names, outputs, threads=1),
    )


def quantized(
    model: ModelProto | str,
    passes: str = PLAN_PASSES,
    *,
    calls: int = 40,
    opset: int = 17,
    graph_passes: str = GRAPH_PASSES,
    scored: dict[str, Any] | None = None,
) -> Quantized:
    """Take a model (or parser text) through graph passes and plan passes.

    Args:
        model: that.
        passes: on its plan.
        calls: of random samples.
        opset: of a text.
        graph_passes: on the graph, before.
        scored: candidates of the same model and samples that were scored before, and those that are scored now.
    """
    model = parse_model(model, opset=opset) if isinstance(model, str) else model
    twin = ModelProto()
    twin.CopyFrom(model)
    graph = LpGraph.from_proto(twin)
    graph.infer_shapes()
    ctx = context(model, calls)
    ctx.scored = {} if scored is None else scored
    return Quantized(model, graph, ctx, _run(graph, ctx, f"{graph_passes},{passes}"))


@functools.cache
def rounded(
    text: str, fmt: str = "fixp4", *, activations: str = "uint8", granularity: str = "channel", then: str = ""
) -> Quantized:
    """Where passes that learn begin: layers rounded, biases left to them. Shared: `learned` works on copies."""
    return quantized(
        text,
        f"quantize-activations{{cost=none,format={activations}}},"
        f"quantize-weights{{format={fmt},granularity={granularity},group-size=8}}{then}",
        calls=24,
    )


def learned(found: Quantized, text: str, **context: object) -> tuple[LpGraph, PassReport, PassContext]:
    """A copy of the graph after one more pass, its report, and the context that the pass was given."""
    graph = found.graph.copy()
    ((name, options),) = split_pipeline(text)
    ctx = replace(found.context, warnings=[], **context)  # type: ignore[arg-type]
    return graph, pass_class(name).configured(options).run(graph, ctx), ctx


def noise(found: Quantized, graph: LpGraph) -> float:
    """Of what the compiled model gives on the deciding samples, against the float model in the runtime."""
    emitted = Quantized(found.original, graph, found.context, {}).emitted()
    calls = found.context.calibration.deciding  # type: ignore[union-attr]
    pairs = [[run_model(m, c)["y"].astype(np.float64) for m in (found.original, emitted)] for c in calls]
    return float(sum(np.square(a - b).sum() for a, b in pairs))


def _run(graph: LpGraph, ctx: PassContext, text: str) -> dict[str, PassReport]:
    passes = tuple(pass_class(name).configured(options) for name, options in split_pipeline(text))
    pipeline = Pipeline(passes, given=frozenset(graph.facts))
    ctx.activations = ctx.activations or pipeline.planned_activations
    return {r.name: r for r in pipeline.run(graph, ctx)}


def same_plan(one: LpGraph, other: LpGraph) -> bool:
    """Whether two graphs have equal plans, codes included."""
    a, b = one.plan, other.plan
    digests = [[layer.codes_sha256 for layer in p.layers.values()] for p in (a, b)]
    corrections = [[layer.bias_correction for layer in p.layers.values()] for p in (a, b)]
    return (
        dict(a.activations) == dict(b.activations)
        and dict(a.elementwise) == dict(b.elementwise)
        and [x.kernel for x in a.layers.values()] == [x.kernel for x in b.layers.values()]
        and digests[0] == digests[1]
        and all(np.array_equal(x, y) for x, y in zip(*corrections, strict=True))
    )
